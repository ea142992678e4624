"""Fine-tune any of six tasks in Keras with compile and fit, in a minute on a CPU.

    python examples/finetune_keras.py                     the bundled model: classify sentences in thirteen languages
    python examples/finetune_keras.py --task tag          also: answer, choose, fill (masked LM), generate (causal LM)
    python examples/finetune_keras.py --task answer --train train-v1.1.json --test dev-v1.1.json --tokens 384 --model FOLDER

Without files a task comes with rows of its own. Those of ``classify`` are to be told apart in languages of which the model
sees no example: transfer across languages, in small. The result is a folder that every framework here opens
(``xlm.AutoModelForSequenceClassification`` as well as the TF classes) with a SavedModel in ``saved_model/1`` that TensorFlow
Serving runs without this library.
"""

from __future__ import annotations

from six_tasks import Job, options

import xlm


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, test, save; returns the scores."""
    args = options(__doc__ or "", "a Keras policy: float32, mixed_bfloat16, mixed_float16", arguments)
    job = Job.of(args)
    model_class = getattr(xlm, f"TFAutoModel{job.head}")
    model = model_class.from_pretrained(args.model, config=job.config, dtype=args.dtype)

    import keras  # after the model's classes, which choose Keras' backend

    keras.utils.set_random_seed(0)
    size = job.batch(args.batch)
    steps = args.epochs * -(-len(job.training(0)[0]["input_ids"]) // size)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=args.lr, warmup_steps=steps // 10
    )
    # No loss is named: the head has one.
    model.compile(optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0))
    for epoch in range(args.epochs):  # one by one, since tokens are masked anew for `fill`
        inputs, targets = job.training(seed=epoch)
        labels = targets.get("labels", targets)  # an answer's are two: start_positions, end_positions
        loss = model.fit(inputs, labels, batch_size=size, verbose=0).history["loss"][0]
        if epoch % 5 == 4 or epoch == args.epochs - 1:
            print(f"epoch {epoch + 1:3}  loss {loss:.3f}", flush=True)

    inputs, _ = job.testing()
    scores = job.evaluate(model.predict(inputs, batch_size=size, verbose=0))
    model.save_pretrained(args.out, saved_model=True)
    job.tokenizer.save_pretrained(args.out)
    count = len(inputs["input_ids"])
    print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()), f" {count} rows; saved to {args.out}")
    return scores


if __name__ == "__main__":
    main()
