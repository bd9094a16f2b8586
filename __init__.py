"""For Python started beside a checkout called lsr: it takes this folder for the package, which is the one below."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if __name__ == "lsr":
    _package = Path(__file__).resolve().parent / "lsr"
    _spec = spec_from_file_location("lsr", _package / "__init__.py", submodule_search_locations=[str(_package)])
    if _spec is not None and _spec.loader is not None:
        sys.modules["lsr"] = module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules["lsr"])
