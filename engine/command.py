"""What a command is: its fields are its flags, and `run` does it."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from d2r_fast.engine.config import Frozen

Settings = Mapping[str, Callable[[], dict[str, Any]]]


class Command(Frozen):
    """Arguments of one command."""

    PRESETS: ClassVar[Settings] = {}
    """Named sets of settings that flags and a --config file go before."""
    PRESET_FLAG: ClassVar[str] = "preset"
    """The flag that names one of them."""

    @classmethod
    def settings_model(cls) -> type[Frozen]:
        """Whose fields a --config file may set: those of the config that the command adds its flags to."""
        return cls.__bases__[0]

    def settings(self) -> Any:
        """The config that the flags add up to."""
        model = self.settings_model()
        return model(**{name: getattr(self, name) for name in model.model_fields})

    @abstractmethod
    def run(self) -> int:
        """Do it; return the exit status."""
