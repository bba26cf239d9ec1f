"""Named recipes."""

from d2lcls.training.recipe import Recipe

RECIPES = {
    # CIFAR-10 to 94 % in the least time; the chapter "Making it fast" explains it. The ideas and, where they fit, the
    # numbers are from Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
    "fast94": Recipe(
        model="fast94",
        num_epochs=13,
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
        augment=("reflect_crop:2", "alternating_flip"),
        small_first=(28, 10),
        validation=0.0,
        precision="auto",
        tta=True,
    )
}
