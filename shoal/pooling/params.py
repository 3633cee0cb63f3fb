"""Whether a model can give what is asked of a prompt's vector."""

from __future__ import annotations

from shoal.errors import InvalidRequestError
from shoal.model.pooling import Pooling, Task
from shoal.prompts.refusals import wrong_value
from shoal.types import PoolingParams


def check_params(params: PoolingParams, pooling: Pooling, where: str = "") -> None:
    """Refuse values that the model cannot give.

    Args:
        where: what errors put before a field's name, such as `body.`.

    Raises:
        InvalidRequestError: names the field.
    """
    if type(params.use_activation) not in (bool, type(None)):
        raise wrong_value(f"{where}use_activation", "must be true or false")
    if params.dimensions is None:
        return
    name = f"{where}dimensions"
    if pooling.task is not Task.embed:
        raise InvalidRequestError(
            f"{name} is for embeddings; remove it.", code="unsupported_parameter", param=name
        )
    if type(params.dimensions) is not int or not 1 <= params.dimensions <= pooling.width:
        raise wrong_value(name, f"must be a whole number from 1 to {pooling.width}")
    if pooling.dimensions and params.dimensions not in pooling.dimensions:
        known = ", ".join(map(str, sorted(pooling.dimensions)))
        raise wrong_value(name, f"must be one that the model was trained for: {known}")
