"""A discriminator that gives, beside its scores, the features that they are a linear function of."""

from torch import Tensor, nn

from fastgan.judgement import Judgement


class WithFeatures(nn.Module):
    """Wraps a discriminator: images -> in training a `Judgement` with `features`, float32 (B, F), what its last linear layer is
    given; in evaluation what the network itself gives.

    Args:
        projected: take a last linear layer with several outputs too, of networks that compare these with a class's vector.

    Raises:
        ValueError: the network has no linear layer with one output.
    """

    def __init__(self, network: nn.Module, projected: bool = False) -> None:
        super().__init__()
        layers = [(name, part.out_features) for name, part in network.named_modules() if isinstance(part, nn.Linear)]
        layers = [name for name, outputs in layers if outputs == 1] or [name for name, _ in layers if projected]
        if not layers:
            raise ValueError("its discriminator has no linear last layer, whose input would be the features to be compared")
        self.network, self.last = network, layers[-1]

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor | Judgement:
        if not self.training:
            return self.network(x, *labels)
        seen: list[Tensor] = []
        hook = self.network.get_submodule(self.last).register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            score = self.network(x, *labels)
        finally:
            hook.remove()
        return Judgement(score, features=seen[0].flatten(1).float())
