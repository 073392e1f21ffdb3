"""The configuration: one tree of frozen dataclasses, checked where it is built.

`Config` is all that a run depends on. Presets build it, `override` changes it by dotted names, `to_yaml` writes it out
resolved into the run's folder and `from_yaml` reads that back.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from fastgan.checked import (
    CHECKED,
    Count,
    Fraction,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    UserError,
    explain,
    nearest,
)
from fastgan.objectives import OBJECTIVES, UNTRAINED, chosen
from fastgan.policies import PolicyName
from fastgan.terms import TERMS, Term

AUTOENCODERS = ("style-content",)
"""Families of networks that code and decode images: what games of autoencoders are played with."""


@dataclass(frozen=True, config=CHECKED)
class Data:
    """Which images, and how they reach the networks."""

    source: str = "digits"
    """digits (embedded, real, 1,797 images), stacked-digits (three of them, in colour: 1,000 classes), folder (your image
    files), shards (what `fastgan data pack` made of them), arrays (your .npz or .npy), the published files of
    cifar10, cifar100, stl10, stl10-unlabeled, svhn, mnist, or points in the plane: grid25, ring8, swiss-roll."""
    path: str | None = None
    """Where the images lie, for sources that are not embedded."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    """What to do about files of a folder that do not decode: refuse to train, or leave them out and say so."""
    resolution: int = Field(default=32, ge=8, le=1024, multiple_of=8)
    """Side of the square images in pixels. Points have none."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour; grey images are repeated where 3 are asked."""
    order: Literal["images", "shards"] = "images"
    """The order of an epoch: any order of all images is as likely, or, for disks that have to seek and stores far away, a few
    shards of a packed set at a time, each read from end to end."""
    cache: NonNegativeFloat = 0.0
    """GiB of image files that each process keeps in memory once it has read them."""
    crop: Literal["centre", "random", "stretch"] = "centre"
    """What is shown of an image: its largest square in the middle, a random square, or all of it with its aspect ratio lost."""
    min_area: float = Field(default=0.25, gt=0, le=1)
    """The smallest area of a random crop, as a share of the largest square's; at 1 that square itself, at a random place."""
    filter: Literal["cubic", "lanczos", "linear"] = "cubic"
    """How images are resized; always with antialiasing."""
    flip: bool = False
    """Mirror each image with probability 1/2."""
    noise: NonNegativeFloat = 0.0
    """Uniform noise [0, noise) on top of images in [-1, 1] (dequantisation; AdvLatGAN's SN runs use 1/128)."""
    threads: Positive | None = None
    """Threads that decode; where none are named, one a core up to 8 for files, and one for images in memory."""


@dataclass(frozen=True, config=CHECKED)
class Latent:
    """The prior of z, its refinement by I-FGSM in the discriminator's step (AdvLatGAN-qua), and pairs of latents (-div)."""

    dim: int = Field(default=128, ge=1, le=2**20)
    """Coordinates of z."""
    prior: Literal["normal", "truncated-normal", "uniform"] = "normal"
    """Of each coordinate: standard normal, the same cut at +-truncation, or uniform on [-1, 1]."""
    truncation: PositiveFloat = 2.0
    """Bound of the truncated normal prior, in standard deviations."""
    refine_steps: Count = 0
    """K, I-FGSM iterations; 0 is ordinary training."""
    step_size: NonNegativeFloat = 0.01
    """eps, how far one iteration moves each coordinate (direction sign) or the whole latent (direction l2)."""
    direction: Literal["sign", "l2"] = "sign"
    momentum: Fraction = 0.0
    """Decay of the accumulated gradient (MI-FGSM); 0 is plain I-FGSM."""
    radius: NonNegativeFloat | None = None
    """Bound of the distance to the drawn latent (PGD); none as published."""
    radius_norm: Literal["linf", "l2"] = "linf"
    """How the distance is measured: the largest coordinate, or the length."""
    stop_score: float | None = None
    """A sample whose score reaches this stops moving."""
    keep_best: bool = False
    """Give each sample's best-scored iterate; costs one more forward."""
    reuse: bool = False
    """One refined latent for all discriminator steps of a round, as the published code does; otherwise a fresh one each."""
    pair: Literal["none", "random", "hard"] = "none"
    """Both players play with two latents for each label: a second random one (MSGAN), or one mined nearby whose image hardly
    differs (AdvLatGAN-div). Losses are sums over both; terms.mode_seeking pushes the pair's images apart."""
    pair_distance: NonNegativeFloat = 0.08
    """Standard deviation of each coordinate's distance at which the search for the hard partner begins."""
    pair_steps: Count = 3
    """Iterations of that search."""
    pair_step_size: NonNegativeFloat = 0.004
    """How far one of them moves each coordinate."""


@dataclass(frozen=True, config=CHECKED)
class Network:
    """Generator and discriminator."""

    family: Literal[
        "sn-cnn",
        "sn-resnet",
        "dcgan-cnn",
        "dcgan-conditional",
        "wgan-cnn",
        "wgan-resnet",
        "mlp",
        "biggan",
        "biggan-deep",
        "sagan",
        "projection-resnet",
        "r3gan",
        "style-content",
    ] = "sn-cnn"
    """docs/networks.md says what each is; mlp is for points in the plane, the others for images, style-content for GAIA."""
    width: int = Field(default=64, ge=1, le=2**14)
    """Base channels, 64 as published; for mlp the units of a hidden layer, 256 as published; for r3gan channels of the widest
    maps, 768 or 1536 as published."""
    classes: Count = 0
    """Classes that both networks are told, as many as the data has; 0 is unconditional."""
    attention: tuple[Positive, ...] = (64,)
    """BigGAN's kin: sides of the maps that self-attention looks at; those that a network doesn't have are passed over."""
    embedding: Positive = 128
    """BigGAN's kin: numbers of the class vector that all blocks of G share; r3gan: of the one beside z."""
    depth: Positive = 2
    """BigGAN-deep and r3gan: blocks of a stage."""
    expansion: Positive = 2
    """r3gan: channels inside a block, in those of its map."""
    group: Positive = 16
    """r3gan: channels in a group of a block's 3x3 convolution; all of them where there are fewer."""
    widest: Positive = 32
    """r3gan: side of the largest maps that have `width` channels; each doubling beyond halves them."""
    content: Positive = 512
    """style-content: numbers of G's code of content; D keeps its content as a map."""
    style: Positive = 512
    """style-content: numbers of the code of style; 512 in GAIA's run, 8 in MUNIT's."""
    blocks: Positive = 4
    """style-content: residual blocks of an encoder, and of a decoder."""
    downsamplings: Positive = 2
    """style-content: halvings of the side on the way to the content."""
    recompute: bool = False
    """BigGAN's kin: compute a stage's activations again in the backward pass, in the place of keeping them."""
    batch_norm_ranks: Count = 0
    """Ranks that share batch statistics, neighbours by number; 0 is all of them, 1 none with another."""
    ensemble: Positive = 1
    """Generators; with several the first coordinate of z says which one draws a sample, and is shown to none of them."""
    gradient_norm: Literal["none", "gn", "gran"] = "none"
    """What divides D's score by its slope towards the image: nothing, GN-GAN's form, or GraN-GAN's."""


@dataclass(frozen=True, config=CHECKED)
class Augmentation:
    """What D is shown all images through: differentiable augmentation, or with a target adaptive augmentation (ADA)."""

    policy: Literal["none", PolicyName] = "none"
    """Of `fastgan.policies`: diffaugment and its parts (color, translation, ...), ada, or consistency regularisation's."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """With which each transform is done to an image; where it adapts it begins at 0, and this is the most that it comes to."""
    probability_end: float | None = Field(default=None, ge=0, le=1)
    """Where the probability has gone by the end of training.burn_in, if it does not adapt."""
    target: float | None = Field(default=None, ge=-1, le=1)
    """Where set, the probability rises while the mean sign of D's real scores is above it, and falls below (ADA: 0.6)."""
    images: PositiveFloat = 500_000.0
    """Real images over which it can go from 0 to 1."""
    every: Positive = 4
    """Rounds between two moves of it."""

    def __post_init__(self) -> None:
        if self.policy == "none" and self.target is not None:
            raise ValueError("augmentation.target needs an augmentation.policy, say ada")
        if self.target is not None and self.probability_end is not None:
            raise ValueError("augmentation.target adapts the probability: it takes no augmentation.probability_end")


@dataclass(frozen=True, config=CHECKED)
class Gaia:
    """The game of two autoencoders (Sainburg et al. 2018), for game=gaia. Errors are mean absolute differences of pixels in
    [0, 1]."""

    slope: NonNegativeFloat = 20.0
    """b, how steeply the balances of losses and of rates answer to the difference of two errors."""
    balanced: bool = True
    """The published code's losses, clipped and their parts weighed by balances; without, the paper's plain sums."""
    balanced_rates: bool = True
    """The players share the rate: D has sigmoid(b (error of real images - error of generated ones)) of its own, G the rest of
    its own."""
    detached: bool = False
    """Whether the balances of losses are constants to the gradient; in the published code they are not."""
    tolerated: NonNegativeFloat = 0.5
    """Share of the mixtures' error that D compares with the real images' to weigh what is generated."""
    most_fake: float = Field(default=0.9, ge=0, le=1)
    """The largest weight of generated images in D's loss."""
    bound: PositiveFloat = 1.0
    """Both losses are clipped to [-bound, bound]."""
    compared: Literal["image", "reconstruction"] = "image"
    """What D's drawing of G(x) is compared with: x, as in the published code, or G(x), as in the paper."""
    structure: NonNegativeFloat = 5e-5
    """alpha, weight of the structure loss: distances of content codes are to be those of the images."""
    mixtures: Literal["pairs", "batch"] = "pairs"
    """Which codes G is to decode besides those of images: mixtures of two, or of the whole batch."""
    mix_mean: float = 0.5
    """Mean of the share of a pair's first code."""
    mix_deviation: NonNegativeFloat = 0.25
    """Its standard deviation; shares may leave [0, 1]."""


@dataclass(frozen=True, config=CHECKED)
class Adam:
    """One player's optimiser and its rate's schedule."""

    rate: PositiveFloat = 2e-4
    """Learning rate, before the schedule."""
    rate_end: PositiveFloat | None = None
    """Where the rate has gone by the end of training.burn_in, before the schedule; it stays where none is named."""
    betas: tuple[Fraction, Fraction] = (0.0, 0.9)
    """Decay of the averages of the gradient and of its square."""
    beta2_end: Fraction | None = None
    """Where the second of them has gone by the end of training.burn_in."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty on the weights, added to the gradient."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the rate falls, over the whole run: not at all, to 0 along a line, or to 0 along half a cosine."""
    warmup: Count = 0
    """Rounds over which the rate rises from 0."""
    clip_norm: PositiveFloat | None = None
    """Bound of the player's gradient norm."""
    clip_weights: PositiveFloat | None = None
    """Bound of every weight's magnitude, restored after each step (WGAN, Arjovsky et al. 2017; AdvLatGAN's runs use 0.1)."""


@dataclass(frozen=True, config=CHECKED)
class Training:
    """The loop. Progress is counted in images: real images shown to the discriminator."""

    steps: Positive = 100_000
    """Rounds; one round is n_dis discriminator steps and one generator step."""
    batch_size: int = Field(default=64, ge=1, le=2**24)
    """Images a discriminator step sees, over all ranks and accumulated micro-batches."""
    n_dis: Positive = 1
    """Discriminator steps a round."""
    accumulate: Positive = 1
    """Micro-batches a step's batch is cut into."""
    generator_batch: Positive = 1
    """Latents of the generator's step, in multiples of batch_size (AdvLatGAN's SN runs use 2)."""
    merged: bool = False
    """Step both players at once, on losses of the same networks, in the place of by turns; saves a pass of G."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where the hardware computes it (CUDA, or a CPU with AVX-512 BF16 or AMX), else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where torch sees it."""
    threads: Count = 0
    """Threads that torch computes with on the CPU; 0 leaves its own choice. Bit-exact resumption holds at equal counts."""
    ema_half_life: NonNegativeFloat = 10_000.0
    """Images after which a weight counts half in the averaged generator; 0 turns the average off."""
    ema_half_life_end: NonNegativeFloat | None = None
    """Where that has gone by the end of training.burn_in; it stays where none is named."""
    ema_rampup: PositiveFloat | None = 0.05
    """Early on the half-life is at most this share of the images seen so far (StyleGAN2-ADA)."""
    burn_in: NonNegativeFloat = 0.0
    """Real images over which every setting that has an end goes there, along half a cosine (R3GAN); 0 for no such setting."""
    log_every: Positive = 50
    """Rounds between metrics."""
    sample_every: Count = 500
    """Rounds between sample grids; 0 draws the last one only."""
    checkpoint_every: Positive = 500
    """Rounds between checkpoints."""
    keep_checkpoints: Positive = 3
    """Newest checkpoints kept."""
    wandb: bool | str = False
    """Send metrics and samples to Weights & Biases as well; a name is the project's. Needs the package wandb and its login."""
    spectra_every: Count = 0
    """Rounds between measurements of stability, a multiple of log_every: the largest singular values of each weight, norms of
    weights and gradients; 0 for none."""


@dataclass(frozen=True, config=CHECKED)
class Collapse:
    """What is done about a collapse of training. A resumed run may choose it anew."""

    rollbacks: Count = 0
    """How often a run may go back to its last good checkpoint after a collapse before it stops; 0 stops it at once. A loss or
    weight that is NaN or infinite is a collapse."""
    rate_factor: float = Field(default=0.5, gt=0, le=1)
    """What all learning rates are multiplied by each time, for the rest of the run; latents are drawn anew from there."""
    sigma_growth: float | None = Field(default=None, gt=1)
    """Where set, it is a collapse as well if the largest singular value of G's weights grows by more than this factor between
    two measurements (training.spectra_every; BigGAN, Brock et al. 2019, section 4.1)."""


@dataclass(frozen=True, config=CHECKED)
class Evaluation:
    """How a run's samples are judged while it trains. A resumed run may choose it anew."""

    every: Count = 0
    """Real images between two evaluations; 0 for none. The untrained generator is judged as well, for comparison."""
    metrics: tuple[str, ...] = ()
    """As `fastgan evaluate --metrics` takes them; those that fit the data where none are named."""
    num: int = Field(default=5000, ge=2)
    """Samples that are judged."""
    split: Literal["train", "held-out", "all"] = "train"
    """The real images that they are compared with."""
    best: str | None = None
    """The metric by which the best checkpoint is kept, beside the newest ones; whether lower or higher is better follows
    from the metric."""
    patience: Count = 0
    """Evaluations without an improvement of that metric after which the run ends; 0 for no early stop."""

    def __post_init__(self) -> None:
        if self.best is not None and not self.every:
            raise ValueError("evaluation.best needs evaluation.every, the images between two evaluations")
        if self.patience and self.best is None:
            raise ValueError("evaluation.patience needs evaluation.best, the metric that is to improve")


@dataclass(frozen=True, config=CHECKED)
class Engine:
    """What steps each player's networks, in one process or in many that share a run. A resumed run may choose it anew."""

    kind: Literal["local", "deepspeed"] = "local"
    """local keeps weights and optimiser whole in every process; deepspeed may divide them between the processes."""
    zero_stage: int = Field(default=0, ge=0, le=3)
    """What DeepSpeed divides (ZeRO): 1 the optimiser's state, 2 the gradients too, 3 the weights too; 0 nothing. A player with
    a second-order term stays at 2."""
    offload: Literal["none", "cpu"] = "none"
    """Where DeepSpeed keeps the optimiser's state, from stage 1 on: beside the weights, or in the CPU's memory."""
    deepspeed_json: str | None = None
    """A DeepSpeed configuration to be merged over fastgan's own, for what has no field here."""

    def __post_init__(self) -> None:
        if self.kind == "local":
            for name in ("zero_stage", "offload", "deepspeed_json"):
                if getattr(self, name) not in (0, "none", None):
                    raise ValueError(f"engine.{name} needs engine.kind=deepspeed")
        if self.offload != "none" and not self.zero_stage:
            raise ValueError("engine.offload needs engine.zero_stage 1, 2 or 3")


@dataclass(frozen=True, config=CHECKED)
class Config:
    """A whole run."""

    name: str = Field(default="custom", pattern=r"^\w[\w.-]*$")
    """The preset's name; run folders are called after it."""
    description: str = ""
    """One line for the table of presets."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the initial weights, the latents, the order of the images, and all else that is drawn."""
    game: Literal["adversarial", "gaia", "autoencoder"] = "adversarial"
    """Who plays: a generator of latents against a discriminator, two autoencoders against each other (docs/gaia.md), or one
    autoencoder alone, by the error of its pixels."""
    objective: str = "hinge"
    """One of docs/objectives.md: hinge, non-saturating (or softplus), wasserstein, relativistic, f-gan-kl, mmd, fisher, ..."""
    objective_options: dict[str, Any] = Field(default_factory=dict)
    """Settings of its own, where it has any: name -> value."""
    data: Data = Field(default_factory=Data)
    latent: Latent = Field(default_factory=Latent)
    network: Network = Field(default_factory=Network)
    terms: dict[str, Any] = Field(default_factory=dict)
    """What the losses have beside the objective: name -> its settings."""
    augmentation: Augmentation = Field(default_factory=Augmentation)
    gaia: Gaia = Field(default_factory=Gaia)
    generator: Adam = Field(default_factory=Adam)
    discriminator: Adam = Field(default_factory=Adam)
    training: Training = Field(default_factory=Training)
    collapse: Collapse = Field(default_factory=Collapse)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    engine: Engine = Field(default_factory=Engine)

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, name: str) -> str:
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}: {nearest(name, OBJECTIVES)}")
        return name

    @field_validator("objective_options")
    @classmethod
    def _known_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "objective" in info.data:
            chosen(info.data["objective"], options)
        return options

    @field_validator("terms")
    @classmethod
    def _build_terms(cls, terms: dict[str, Any], info: ValidationInfo) -> dict[str, Term]:
        built = {}
        for name, settings in terms.items():
            if name not in TERMS:
                raise ValueError(f"unknown term {name!r}: {nearest(name, TERMS)}")
            if isinstance(settings, Term):
                built[name] = settings
            elif isinstance(settings, Mapping):
                try:
                    built[name] = TERMS[name](**settings)
                except ValidationError as error:
                    raise ValueError(f"{name}: {explain(error, {'': _names(TERMS[name])})}") from None
            elif settings is not None:  # null takes a preset's term away
                raise ValueError(f"{name} takes settings like terms.{name}.every=1, not {settings!r}")
        return built

    def __post_init__(self) -> None:
        training = self.training
        if training.batch_size % training.accumulate:
            raise ValueError(
                f"training.batch_size {training.batch_size} does not divide into training.accumulate {training.accumulate} "
                "equal micro-batches"
            )
        if training.accumulate > 1 and (coupled := self.coupled):
            raise ValueError(f"{coupled[0]} couples the samples of a batch, so training.accumulate must be 1")
        if training.spectra_every % training.log_every:
            raise ValueError(
                f"training.spectra_every {training.spectra_every} is not a multiple of training.log_every {training.log_every}"
            )
        if self.collapse.sigma_growth is not None and not training.spectra_every:
            raise ValueError("collapse.sigma_growth needs training.spectra_every")
        if training.merged:
            for field, alone in (("training.n_dis", training.n_dis == 1), ("latent.pair", self.latent.pair == "none")):
                if not alone:
                    raise ValueError(f"training.merged steps both players at once, so {field} can't be set with it")
            if training.generator_batch > 1:
                raise ValueError("training.merged gives both players the same latents, so training.generator_batch must be 1")
        if self.latent.pair != "none" and training.generator_batch > 1:
            raise ValueError("latent.pair gives both players the same latents, so training.generator_batch must be 1")
        self._check_objective()
        self._check_game()
        imaged = [name for name, term in self.terms.items() if term.transforms_images]
        if imaged and self.network.family == "mlp":
            raise ValueError(f"{imaged[0]} transforms images: it can do nothing with the points that network.family mlp draws")
        if self.augmentation.policy != "none" and self.network.family == "mlp":
            raise ValueError("augmentation.policy transforms images: network.family mlp draws points")
        if self.network.ensemble > 1 and self.latent.dim < 2:
            raise ValueError("network.ensemble spends a coordinate of z on the choice, so latent.dim must be at least 2")
        comparing = [name for name, term in self.terms.items() if term.compares_latents]
        comparing += ["latent.pair"] if self.latent.pair != "none" else []
        if self.network.ensemble > 1 and comparing:
            raise ValueError(f"{comparing[0]} compares images of two latents, which network.ensemble may give two generators")
        if training.precision == "fp16" and training.device == "cpu":
            raise ValueError("training.precision fp16 needs a CUDA device: use bf16 or fp32 on the CPU")
        for player in ("generator", "discriminator"):
            if getattr(self, player).warmup >= training.steps:
                raise ValueError(f"{player}.warmup must end before training.steps ({training.steps})")
        ending = [name for name, value in flatten(self).items() if name.endswith("_end") and value is not None]
        if ending and not training.burn_in:
            raise ValueError(f"{ending[0]} needs training.burn_in, the images over which it is gone to")

    @property
    def players(self) -> tuple[str, ...]:
        """Who is stepped."""
        return ("generator",) if self.game == "autoencoder" else ("discriminator", "generator")

    def burnt_in(self, round_number: int) -> float:
        """The share of the burn-in that has passed when a round begins, in [0, 1]; 1 in a run without one."""
        images = round_number * self.training.n_dis * self.training.batch_size
        return min(images / self.training.burn_in, 1.0) if self.training.burn_in else 1.0

    def _check_game(self) -> None:
        coding = self.network.family in AUTOENCODERS
        if self.game == "adversarial":
            if coding:
                raise ValueError(f"network.family {self.network.family} is of autoencoders: game=gaia or game=autoencoder")
            if self.gaia != Gaia():
                raise ValueError("gaia's settings need game=gaia")
            return
        if not coding:
            raise ValueError(f"game {self.game} needs autoencoders: network.family {' or '.join(AUTOENCODERS)}")
        if self.game == "gaia" and self.training.batch_size < 2:
            raise ValueError("game gaia mixes the codes of a batch, so training.batch_size must be above 1")
        unused = [*_OF_ADVERSARIAL]
        if self.game == "autoencoder":
            unused += [f"gaia.{field.name}" for field in dataclasses.fields(Gaia) if not field.name.startswith("mix_")]
            unused.append("discriminator")
        for name in unused:
            if attrgetter(name)(self) != attrgetter(name)(_PLAIN):
                raise ValueError(f"{name} has no meaning in a game {self.game}")

    def _check_objective(self) -> None:
        objective, training = OBJECTIVES[self.objective], self.training
        if self.latent.refine_steps and not objective.refines:
            raise ValueError(f"latent.refine_steps must be 0 with objective {self.objective}: {UNTRAINED}")
        for name, used in (
            ("augmentation.target", self.augmentation.target is not None),
            ("network.gradient_norm", self.network.gradient_norm != "none"),
        ):
            if used and not objective.refines:
                raise ValueError(f"{name} is of D's score, and objective {self.objective} trains D's features alone")
        scored = [name for name, term in self.terms.items() if term.player == "discriminator" and not term.reads_weights]
        if scored and not objective.refines:
            raise ValueError(f"{scored[0]} is of D's score, and objective {self.objective} trains D's features alone")
        if objective.pairs and objective.real_in_generator and training.generator_batch > 1:
            raise ValueError(
                f"objective {self.objective} compares each generated image with a real one, "
                "so training.generator_batch must be 1"
            )
        if objective.couples and training.batch_size < 2:
            raise ValueError(
                f"objective {self.objective} compares the samples of a batch, so training.batch_size must be above 1"
            )
        choosers = [name for name, term in self.terms.items() if type(term).chosen is not Term.chosen]
        if choosers and (objective.couples or objective.pairs or not objective.refines):
            raise ValueError(
                f"{choosers[0]} chooses among generated scores by themselves, "
                f"which objective {self.objective} compares with each other or with real ones"
            )

    @property
    def coupled(self) -> list[str]:
        """Names of what mixes samples: a batch that is cut into parts would not have their loss, or these pairs."""
        if self.game == "gaia":
            return ["game=gaia"]
        mined = ["latent.pair=hard"] if self.latent.pair == "hard" else []
        if OBJECTIVES[self.objective].couples:
            mined.append(f"objective={self.objective}")
        return [*mined, *(name for name, term in self.terms.items() if term.couples)]

    @property
    def coupled_over_ranks(self) -> list[str]:
        """Names of what mixes samples of one rank alone: ranks that share a batch would not have its loss."""
        return [name for name, term in self.terms.items() if term.couples and not term.spans_ranks]


_OF_ADVERSARIAL = (
    "objective", "objective_options", "latent.refine_steps", "latent.pair", "terms", "augmentation", "network.classes",
    "network.ensemble", "network.gradient_norm", "training.n_dis", "training.generator_batch", "training.merged",
)  # fmt: skip


def override(config: Config, assignments: Iterable[str]) -> Config:
    """A copy of `config` with fields set by dotted name.

    Args:
        assignments: "path.to.field=value"; the value is read as YAML, so numbers, true, null and [0.5, 0.9] mean what they
            look like.

    Raises:
        UserError: an unknown name, a value of the wrong kind or out of range, or a combination that can't work.
    """
    tree = to_dict(config)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes name=value, not {assignment!r}")
        *parents, last = name.strip().split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"unknown field {name!r}: {parent!r} has no fields of its own")
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {name}: the value {text!r} can't be read") from None
    return from_dict(tree)


def to_dict(config: Config) -> dict[str, Any]:
    """The tree as plain dicts, lists, numbers and strings."""
    return _plain(dataclasses.asdict(config))


def flatten(config: Config) -> dict[str, Any]:
    """The tree's leaves by dotted name."""
    leaves: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else key)
        else:
            leaves[path] = node

    walk(to_dict(config), "")
    return leaves


def from_dict(tree: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`, checked.

    Raises:
        UserError: with one line that names the field.
    """
    try:
        return TypeAdapter(Config).validate_python(dict(tree))
    except ValidationError as error:
        raise UserError(explain(error, _fields(Config))) from None


def to_yaml(config: Config) -> str:
    """The resolved configuration as a YAML document, in the order of the classes above."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def from_yaml(path: Path) -> Config:
    """Read what `to_yaml` wrote.

    Raises:
        UserError: the file is missing, is not such a document, or holds values that are refused.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is not a YAML document") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not a configuration")
    try:
        return from_dict(tree)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _names(settings: type) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def _fields(settings: type, path: str = "") -> dict[str, list[str]]:
    """Dotted path of each settings class in the tree -> the names of its fields."""
    found = {path: _names(settings)}
    for field in dataclasses.fields(settings):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= _fields(field.type, f"{path}.{field.name}".lstrip("."))
    return found


_PLAIN = Config()
