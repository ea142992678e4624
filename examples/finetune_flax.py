"""Fine-tune any of six tasks in Flax with optax, in a minute on a CPU.

    python examples/finetune_flax.py                     the bundled model: classify sentences in thirteen languages
    python examples/finetune_flax.py --task tag          also: answer, choose, fill (masked LM), generate (causal LM)
    python examples/finetune_flax.py --task answer --train train-v1.1.json --test dev-v1.1.json --tokens 384 --model FOLDER

Without files a task comes with rows of its own. Those of ``classify`` are to be told apart in languages of which the model
sees no example: transfer across languages, in small. The result is a folder that every framework here opens:
``xlm.AutoModelForSequenceClassification`` as well as the Flax classes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from six_tasks import Job, options

import xlm


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, test, save; returns the scores."""
    args = options(__doc__ or "", "in which the model computes: float32 or bfloat16", arguments)
    job = Job.of(args)
    model_class = getattr(xlm, f"FlaxAutoModel{job.head}")
    model = model_class.from_pretrained(args.model, config=job.config, dtype=args.dtype)
    size = job.batch(args.batch)
    per_epoch = len(job.training(0)[0]["input_ids"]) // size
    steps = args.epochs * per_epoch
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.lr, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))

    @jax.jit
    def step(params: Any, state: Any, batch: dict[str, Any], key: Any) -> tuple[Any, Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            return model(**batch, params=params, train=True, dropout_rng=key).loss

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    # Stacked parameters are what the model computes with; `model.params` is the same as a dictionary a layer.
    params, key = model.stacked, jax.random.key(0)
    state = optimizer.init(params)
    for epoch in range(args.epochs):
        inputs, targets = job.training(seed=epoch)
        rows = inputs | targets
        order = np.random.default_rng(epoch).permutation(len(inputs["input_ids"]))
        losses = []
        for chosen in order[: per_epoch * size].reshape(per_epoch, size):  # one shape, so one compilation
            key, draw = jax.random.split(key)
            params, state, loss = step(params, state, {name: array[chosen] for name, array in rows.items()}, draw)
            losses.append(loss)
        if epoch % 5 == 4 or epoch == args.epochs - 1:
            print(f"epoch {epoch + 1:3}  loss {float(jnp.mean(jnp.stack(losses))):.3f}", flush=True)
    model.set_stacked(params)

    inputs, _ = job.testing()
    parts = []
    for start in range(0, len(inputs["input_ids"]), size):
        # The last batch is filled up with its own rows, which are then left out.
        part = {
            name: np.resize(array[start : start + size], (size, *array.shape[1:])) for name, array in inputs.items()
        }
        parts.append({name: value for name, value in model(**part).items() if name.endswith("logits")})
    count = len(inputs["input_ids"])
    scores = job.evaluate({name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]})
    model.save_pretrained(args.out)
    job.tokenizer.save_pretrained(args.out)
    print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()), f" {count} rows; saved to {args.out}")
    return scores


if __name__ == "__main__":
    main()
