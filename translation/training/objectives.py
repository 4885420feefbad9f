"""The methods that can be trained; each is imported when it is asked for."""

from d2r_fast.translation.training.config import TransferMethod
from d2r_fast.translation.training.objective import Objective


def objective_of(method: TransferMethod) -> type[Objective]:
    """The training side of a method."""
    if method == "decent":
        from d2r_fast.translation.training.decent_objective import DecentObjective

        return DecentObjective
    if method == "unsb":
        from d2r_fast.translation.training.unsb_objective import UnsbObjective

        return UnsbObjective
    from d2r_fast.translation.training.vsait_objective import VsaitObjective

    return VsaitObjective
