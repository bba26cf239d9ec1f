"""Whole recipes for `d2lcls train --recipe NAME`: the options that a name stands for."""

RECIPES = {
    # CIFAR-10 to 94 % in the least time; the chapter "Making it fast" takes it apart. Source of the ideas and, as far as
    # they fit, of the numbers: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
    "fast94": dict(
        model="fast94",
        epochs=13,
        batch_size=1000,
        lr=1.5,
        schedule="linear",
        warmup_epochs=3.0,
        optimizer="nag",
        momentum=0.85,
        wd=0.00133,
        bias_lr=64.0,
        decay_biases=True,
        label_smoothing=0.2,
        lookahead=5,
        augment=["reflect_crop:2", "alternating_flip"],
        small_first=(28, 10),
        validation=0.0,
        precision="auto",
        tta=True,
    )
}

PHASES = ("warmup_epochs", "small_first")  # options that are a part of the epochs


def shortened(name, epochs):
    """Return the options of a recipe for another number of epochs, of which its phases keep their shares.

    Epochs on windows are whole ones, rounded down: the last epoch always sees whole images.
    """
    recipe = RECIPES[name]
    factor, (side, first) = epochs / recipe["epochs"], recipe["small_first"]
    return {
        **recipe,
        "epochs": epochs,
        "warmup_epochs": recipe["warmup_epochs"] * factor,
        "small_first": (side, int(first * factor)),
    }
