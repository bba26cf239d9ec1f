"""Every public function and method of the package has types for all of its parameters and for what it returns."""

import importlib
import inspect
import pkgutil

import d2lcls

import pytest

MODULES = sorted(info.name for info in pkgutil.walk_packages(d2lcls.__path__, "d2lcls."))


def public_functions(module):
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            for method_name, method in vars(thing).items():
                function = getattr(method, "fget", None) or getattr(method, "__func__", method)
                public = not method_name.startswith("_") or method_name == "__init__"
                if public and inspect.isfunction(function) and function.__module__ == module.__name__:
                    yield f"{name}.{method_name}", function


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_public_signatures_have_types(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:  # an extra that is not installed
        pytest.skip(str(error))
    missing = []
    for function_name, function in public_functions(module):
        if function.__qualname__ == "__create_fn__.<locals>.__init__" or not hasattr(function, "__code__"):
            continue
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
        if function.__code__.co_filename.startswith("<"):  # made by dataclasses from typed fields
            continue
        missing += [f"{function_name}({p.name})" for p in parameters if p.annotation is inspect.Parameter.empty]
        if "return" not in function.__annotations__:
            missing.append(f"{function_name} -> ?")
    assert not missing
