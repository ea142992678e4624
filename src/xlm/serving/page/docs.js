"use strict";
// Without a validator: by default Swagger UI sends the interface's address to one on the internet.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#interface", deepLinking: true, validatorUrl: null });
