from xlm.errors import CheckpointError as CheckpointError
from xlm.errors import ConfigError as ConfigError
from xlm.errors import DataError as DataError
from xlm.errors import InputError as InputError
from xlm.errors import MissingExtraError as MissingExtraError
from xlm.errors import OutputError as OutputError
from xlm.errors import XLMError as XLMError

__version__: str
