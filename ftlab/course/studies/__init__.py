"""How each lab's claims are measured: one module a lab, called as the lab is, with CLAIMS; and what they share."""

import importlib


def load(lab):
    """The module of lab `lab` ("01_autoregression"); its name starts with a digit, so `import` cannot name it."""
    return importlib.import_module(f"{__name__}.{lab}")


class Once:
    """Remembers the runs that several claims of a seed use; those of a seed before are dropped, with their models."""

    def __init__(self):
        self.seed, self.made = None, {}

    def __call__(self, key, seed, make):
        """make()'s result, made once for a key and seed."""
        if seed != self.seed:
            self.seed, self.made = seed, {}
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def rounded(found):
    """Numbers with four decimals, in dicts and lists as deep as they go: what a study's data holds."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    if isinstance(found, list):
        return [rounded(value) for value in found]
    return round(found, 4) if isinstance(found, float) else found
