"""Checkpoints as BigGAN-PyTorch writes them, filled by chance, and what its networks compute from them: in plain torch,
straight from the names in the state dicts."""

import torch
from torch.nn import functional
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, interpolate, max_pool2d, normalize

SIDE, WIDTH, CLASSES, EMBEDDING, CHUNK, DEPTH = 64, 8, 5, 6, 4, 2
UP, DOWN = (16, 16, 8, 4, 2), (1, 2, 4, 8, 16)  # channels in widths, of G's first map and stages, and of D's stages


class Weights(dict):
    """A state dict that fills itself, with what its networks' layers would hold after some training."""

    def __init__(self, seed):
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)

    def number(self, *shape):
        return torch.randn(*shape, generator=self.random)

    def layer(self, name, *shape, bias=True, spectral=True):
        self[f"{name}.weight"] = self.number(*shape) / (shape[-1] if len(shape) == 2 else shape[1] * shape[2]) ** 0.5
        if bias:
            self[f"{name}.bias"] = 0.3 * self.number(shape[0])
        if spectral:
            self[f"{name}.u0"] = normalize(self.number(1, shape[0]))
            self[f"{name}.sv0"] = torch.ones(1)

    def norm(self, name, channels, condition=None):
        self[f"{name}.stored_mean"], self[f"{name}.stored_var"] = 0.3 * self.number(channels), 0.5 + self.number(channels) ** 2
        if condition is None:
            self[f"{name}.gain"], self[f"{name}.bias"] = 1 + 0.3 * self.number(channels), 0.3 * self.number(channels)
        else:
            self.layer(f"{name}.gain", channels, condition, bias=False)
            self.layer(f"{name}.bias", channels, condition, bias=False)

    def attention(self, name, channels):
        for part, before, after in (("theta", 1, 1 / 8), ("phi", 1, 1 / 8), ("g", 1, 1 / 2), ("o", 1 / 2, 1)):
            self.layer(f"{name}.{part}", int(channels * after), int(channels * before), 1, 1, bias=False)
        self[f"{name}.gamma"] = torch.tensor(0.7)


def generator_weights(deep, seed=0):
    w, condition = Weights(seed), EMBEDDING + CHUNK
    first, *widths = (WIDTH * n for n in UP)
    w.layer("shared", CLASSES, EMBEDDING, bias=False, spectral=False)
    w.layer("linear", 16 * first, condition if deep else CHUNK)
    before = first
    for stage, channels in enumerate(widths):
        for block in range(DEPTH if deep else 1):
            name = f"blocks.{stage * DEPTH + block if deep else stage}"
            last = not deep or block == DEPTH - 1
            after = channels if last else before
            inner = before // 4
            sizes = [(before, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, after, 1)]
            if not deep:
                sizes = [(before, after, 3), (after, after, 3)]
                w.layer(f"{name}.0.conv_sc", after, before, 1, 1)
            for number, (a, b, kernel) in enumerate(sizes, 1):
                w.norm(f"{name}.0.bn{number}", a, condition)
                w.layer(f"{name}.0.conv{number}", b, a, kernel, kernel)
            if last and stage == 2:
                w.attention(f"{name}.1", after)
            before = after
    w.norm("output_layer.0", before)
    w.layer("output_layer.2", 3, before, 3, 3)
    return dict(w)


def discriminator_weights(deep, seed=1):
    w, before = Weights(seed), 3
    widths = [WIDTH * n for n in DOWN]
    if deep:
        w.layer("input_conv", widths[0], 3, 3, 3)
        before, *widths = widths
    for stage, after in enumerate(widths):
        for block in range(DEPTH if deep else 1):
            name, inner = f"blocks.{stage}.{block}", after // 4
            if deep:
                for number, (a, b, kernel) in enumerate(
                    [(before, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, after, 1)], 1
                ):
                    w.layer(f"{name}.conv{number}", b, a, kernel, kernel)
                if before != after:
                    w.layer(f"{name}.conv_sc", after - before, before, 1, 1)
            else:
                w.layer(f"{name}.conv1", after, before, 3, 3)
                w.layer(f"{name}.conv2", after, after, 3, 3)
                w.layer(f"{name}.conv_sc", after, before, 1, 1)
            before = after
        if stage == 0:
            w.attention(f"blocks.{stage}.{DEPTH if deep else 1}", after)
    w.layer("linear", 1, before)
    w.layer("embed", CLASSES, before, bias=False)
    return dict(w)


class Theirs:
    """What those networks compute in evaluation, where every use of a normalised weight makes one power iteration first."""

    def __init__(self, weights, deep):
        self.w, self.deep = weights, deep

    def weight(self, name):
        weight, u = self.w[f"{name}.weight"], self.w[f"{name}.u0"]
        matrix = weight.flatten(1)
        v = normalize(u @ matrix)
        u = normalize(v @ matrix.T)
        return weight / (u @ matrix @ v.T).squeeze()

    def convolve(self, name, x):
        weight = self.weight(name)
        return conv2d(x, weight, self.w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def linear(self, name, x):
        return functional.linear(x, self.weight(name), self.w.get(f"{name}.bias"))

    def norm(self, name, x, y=None):
        statistics = self.w[f"{name}.stored_mean"], self.w[f"{name}.stored_var"]
        if y is None:
            return batch_norm(x, *statistics, self.w[f"{name}.gain"], self.w[f"{name}.bias"])
        gain, bias = (self.linear(f"{name}.{part}", y)[:, :, None, None] for part in ("gain", "bias"))
        return batch_norm(x, *statistics) * (1 + gain) + bias

    def attend(self, name, x):
        if f"{name}.gamma" not in self.w:
            return x
        query, key, value = (self.convolve(f"{name}.{part}", x) for part in ("theta", "phi", "g"))
        query, key, value = query.flatten(2), max_pool2d(key, 2).flatten(2), max_pool2d(value, 2).flatten(2)
        looked = value @ (query.transpose(1, 2) @ key).softmax(-1).transpose(1, 2)
        return self.w[f"{name}.gamma"] * self.convolve(f"{name}.o", looked.unflatten(2, x.shape[2:])) + x

    def generate(self, z, labels):
        y = self.w["shared.weight"][labels]
        if self.deep:
            z = torch.cat([y, z], 1)
            conditions = [z] * 99
        else:
            z, *chunks = z.split(CHUNK, 1)
            conditions = [torch.cat([y, chunk], 1) for chunk in chunks]
        x = self.linear("linear", z).view(len(z), -1, 4, 4)
        blocks = 1 + max(int(name.split(".")[1]) for name in self.w if name.startswith("blocks"))
        for number in range(blocks):
            name = f"blocks.{number}"
            x = self.up(f"{name}.0", x, conditions[number], not self.deep or number % DEPTH == DEPTH - 1)
            x = self.attend(f"{name}.1", x)
        return self.convolve("output_layer.2", self.norm("output_layer.0", x).relu()).tanh()

    def up(self, name, x, y, double):
        def doubled(x):
            return interpolate(x, scale_factor=2) if double else x

        h = self.norm(f"{name}.bn1", x, y).relu()
        if not self.deep:
            h = self.convolve(f"{name}.conv1", doubled(h))
            h = self.convolve(f"{name}.conv2", self.norm(f"{name}.bn2", h, y).relu())
            return h + self.convolve(f"{name}.conv_sc", doubled(x))
        h = self.convolve(f"{name}.conv1", h)
        h = self.convolve(f"{name}.conv2", doubled(self.norm(f"{name}.bn2", h, y).relu()))
        h = self.convolve(f"{name}.conv3", self.norm(f"{name}.bn3", h, y).relu())
        h = self.convolve(f"{name}.conv4", self.norm(f"{name}.bn4", h, y).relu())
        return h + doubled(x[:, : h.shape[1]])

    def judge(self, x, labels):
        x = self.convolve("input_conv", x) if self.deep else x
        stages = 1 + max(int(name.split(".")[1]) for name in self.w if name.startswith("blocks"))
        for stage in range(stages):
            if self.deep:
                for block in range(DEPTH):
                    x = self.down_deep(f"blocks.{stage}.{block}", x, block == 0)
                x = self.attend(f"blocks.{stage}.{DEPTH}", x)
            else:
                x = self.attend(f"blocks.{stage}.1", self.down(f"blocks.{stage}.0", x, stage > 0, stage < stages - 1))
        features = x.relu().sum((2, 3))
        return self.linear("linear", features)[:, 0] + (self.weight("embed")[labels] * features).sum(1)

    def down(self, name, x, preactivate, halve):
        h = self.convolve(f"{name}.conv2", self.convolve(f"{name}.conv1", x.relu() if preactivate else x).relu())
        shortcut = self.convolve(f"{name}.conv_sc", x)
        return avg_pool2d(h, 2) + avg_pool2d(shortcut, 2) if halve else h + shortcut

    def down_deep(self, name, x, halve):
        h = x
        for number in (1, 2, 3):
            h = self.convolve(f"{name}.conv{number}", h.relu())
        h = h.relu()
        if halve:
            h, x = avg_pool2d(h, 2), avg_pool2d(x, 2)
        if f"{name}.conv_sc.weight" in self.w:
            x = torch.cat([x, self.convolve(f"{name}.conv_sc", x)], 1)
        return self.convolve(f"{name}.conv4", h) + x


def write(folder, deep=False, behind="", **others):
    """A checkpoint as that project writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"G": generator_weights(deep), "D": discriminator_weights(deep), "G_ema": generator_weights(deep, seed=2)}
    for player, state in (weights | others).items():
        if state is not None:
            torch.save(state, folder / f"{player}{behind}.pth")
    torch.save({"config": {"made of": print}}, folder / f"state_dict{behind}.pth")
    return folder, weights
