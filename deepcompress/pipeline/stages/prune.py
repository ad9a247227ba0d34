"""The stage that chooses which weights go, at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from deepcompress.layers.masking import apply_masks
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stage import Stage, as_json
from deepcompress.pipeline.state import Context, State
from deepcompress.prune.allocate import check_parameters, prune_masks


class Prune(Stage):
    """Set the least important weights to zero, for good.

    Args:
        method: "percentile" (q: share of each layer's weights), "std" (s: |w| < s x standard deviation of the layer),
            "unstructured" (sparsity: share of all weights; scope="global" or "layer") or "filter_l1" (sparsity: share of whole
            output filters, those of least L1 norm; a pruned filter still passes on its norm's beta).
        include, exclude: glob patterns on names of weights or layers; biases and norms only where a pattern names them.
        types: class names of layers, such as "Conv2d".
        parameters: the method's own.

    Raises:
        ParameterError: an unknown method, or a parameter out of range.

    Source: Han, Pool, Tran, Dally. Learning both weights and connections. NIPS 2015 ("std", "percentile"); Li et al. Pruning
    filters for efficient ConvNets. ICLR 2017 ("filter_l1").
    """

    kind: ClassVar[str] = "prune"
    phase: ClassVar[str] = "prune"

    def __init__(
        self,
        method: str,
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
        **parameters: Any,
    ) -> None:
        check_parameters(method, parameters, "Prune")
        self.method = method
        self.parameters = parameters
        self.selection = Selection(include, exclude, types)
        self.selection.check("Prune")

    def apply(self, state: State, context: Context) -> State:
        weights = self.selection.of(state.model, "Prune")
        masks = prune_masks(weights, self.method, masks=state.masks, **self.parameters)
        apply_masks(state.model, masks)
        return replace(state, masks={**state.masks, **masks}, notes=())

    def config(self) -> dict[str, Any]:
        config = {"stage": self.kind, "method": self.method, **self.selection.config()}
        return config | {name: as_json(value, f"Prune.{name}") for name, value in self.parameters.items()}

    def __repr__(self) -> str:
        settings: Mapping[str, Any] = self.parameters | self.selection.config()
        return f"Prune({', '.join([repr(self.method), *(f'{name}={value!r}' for name, value in settings.items())])})"


