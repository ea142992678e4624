"""From text files to a trained model: recipes, objectives, optimizers, checkpoints."""
