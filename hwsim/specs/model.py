"""Model specs: the exact architecture of one Transformer, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import ValidationError, model_validator

from hwsim.errors import InputError
from hwsim.specs import parameter_count
from hwsim.specs.model_checks import check_model, default_fields
from hwsim.specs.model_parts import LayerKind, MlaSpec, MoeSpec, SsmSpec
from hwsim.specs.model_shape import ModelShape

__all__ = ["LayerKind", "MlaSpec", "ModelSpec", "MoeSpec", "SsmSpec"]


class ModelSpec(ModelShape):
    """One Transformer: its shape, checked, and from it the exact parameter count.

    Fields are those of :class:`~hwsim.specs.model_shape.ModelShape`.
    """

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return default_fields(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        check_model(self)
        return self

    def with_context(self, max_context: int) -> ModelSpec:
        """Return the same architecture built for another longest sequence.

        A table of learned positions gets that many rows (and the rows it
        stores beyond ``max_context``), so the parameter count follows.
        """
        changes = self.model_dump() | {"max_context": max_context}
        if self.position == "learned":
            extra = self.position_rows - (self.max_context or self.position_rows)
            changes["position_rows"] = max_context + extra
        try:
            return ModelSpec.model_validate(changes)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise InputError(
                f"model {self.id}: max_context {max_context!r}: {fault['msg']}"
            ) from None

    @cached_property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return parameter_count.total_parameters(self)

    @cached_property
    def num_active_parameters(self) -> int:
        """Parameters that one token visits: experts not chosen are left out."""
        return parameter_count.total_parameters(self, active=True)

    @cached_property
    def num_embedding_parameters(self) -> int:
        """Rows of the lookup tables (tokens, positions, token types)."""
        return parameter_count.embedding_parameters(self)

    def parameters_per_layer(self, layer_index: int) -> int:
        """Return the parameters of one layer, encoder layers counted first.

        Raises
        ------
        InputError
            If there is no such layer.
        """
        kinds = self.layer_kinds
        if not 0 <= layer_index < len(kinds):
            raise InputError(
                f"model {self.id} has no layer {layer_index}; "
                f"layers are 0 to {len(kinds) - 1}"
            )
        return parameter_count.layer_parameters(self, kinds[layer_index])
