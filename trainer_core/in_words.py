"""Speeds and durations as people read them."""


def speed(steps_per_s: float) -> str:
    """``2.50 steps/s``, or ``3.20 s/step`` below half a step a second."""
    if steps_per_s < 0.5:
        return f"{1 / steps_per_s:.2f} s/step"
    return f"{steps_per_s:.2f} steps/s"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
