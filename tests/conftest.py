import os

# Before anything imports triton: kernels then run on CPU tensors, interpreted. TRITON_INTERPRET=0 leaves them compiled.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Before anything imports torch: the networks of the tests are so small that threads only wait for each other, and where other
# processes share the cores they wait a hundred times longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A weights file that torch-fidelity's InceptionV3 takes, with random weights: what is downloaded is never needed."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments, **options):
            """Keep what it begins with."""

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Bare("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(folder / "empty.pth"))
    state = network.state_dict()
    for name, value in state.items():
        if value.dim() == 4:  # torch's own beginning lets signals fade over forty layers
            value.mul_(6**0.5)
        elif name.endswith("fc.weight"):
            value.mul_(10)
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"
