"""The options of SBM attention, checked once and shared by layers, models and configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sbmgraph.checks import check_choice, check_flag, check_positive_int, check_range
from sbmgraph.graph import LAYOUTS
from sbmgraph.ops import ALGORITHMS, BACKENDS, ESTIMATORS, LAWS

MEMBERSHIPS = ("sigmoid", "softmax")
AFFINITIES = ("clusters", "free")
CLUSTER_INITS = ("kaiming", "authors")

TEMPERATURES = {"sigmoid": 1.0, "softmax": 4.0}
"""The factor of membership logits where none is asked for."""


@dataclass(frozen=True, kw_only=True)
class SBMOptions:
    r"""How heads infer their stochastic block models, sample from them and attend.

    Layers take these as keyword arguments, or one object as ``options``; both are gathered and
    checked here.

    Args:
        num_clusters (int): The number :math:`K` of blocks.
        membership (str): :obj:`"sigmoid"`, the paper's: memberships are independent of one another
            and affinities one distribution over all block pairs; or :obj:`"softmax"`: memberships
            are distributions over the blocks and affinities probabilities, the mixed-membership
            SBM of Airoldi et al. (JMLR 2008). See :class:`~sbmgraph.nn.MembershipNetwork`.
        affinity (str): :obj:`"clusters"` computes affinities from the cluster embeddings,
            :obj:`"free"` learns them on their own, from the same start.
        temperature (float, optional): Factor :math:`\tau` of the membership logits. (default:
            :obj:`1.0` with :obj:`"sigmoid"`, :obj:`4.0` with :obj:`"softmax"`)
        learn_temperature (bool): Whether every head learns its factor, starting from that.
        shared_membership (bool): Whether queries and keys share the network :math:`\phi`.
        cluster_init (str): Standard deviation of the initial cluster embeddings:
            :obj:`"kaiming"`, :math:`\sqrt{2 / d}`, or :obj:`"authors"`, :math:`\sqrt{2 / (K d)}`.
        init_density (float, optional): Expected density at the start. 1 stands for dense heads:
            nothing is sampled, and attention is ``scaled_dot_product_attention``. (default: ¼)
        max_density (float, optional): Bound of the expected density of each head on each graph;
            edge probabilities are scaled down to it. (default: no bound)
        exploration (float): Probability :math:`\delta` added to every edge's in training.
        explore_in_evaluation (bool): Whether to add it in evaluation too, as the authors' program
            does.
        law (str): Law of the edges, see :func:`~sbmgraph.sample`.
        algorithm (str): Sampling algorithm, likewise.
        layout (str): How sampled graphs hold their edges, likewise.
        backend (str): See :func:`~sbmgraph.ops.edge_attention`.
        estimator (str): Straight-through estimator, likewise.
        num_samples (int): Number of sampled graphs whose outputs are averaged in evaluation.

    Raises:
        ValueError: If a value is unknown, out of range or at odds with another.
    """

    num_clusters: int = 128
    membership: str = "sigmoid"
    affinity: str = "clusters"
    temperature: float | None = None
    learn_temperature: bool = False
    shared_membership: bool = True
    cluster_init: str = "kaiming"
    init_density: float | None = None
    max_density: float | None = None
    exploration: float = 0.01
    explore_in_evaluation: bool = False
    law: str = "bernoulli"
    algorithm: str = "auto"
    layout: str = "auto"
    backend: str = "auto"
    estimator: str = "logit"
    num_samples: int = 1

    def __post_init__(self) -> None:
        check_positive_int("num_clusters", self.num_clusters)
        check_positive_int("num_samples", self.num_samples)
        for name, choices in {
            "membership": MEMBERSHIPS,
            "affinity": AFFINITIES,
            "cluster_init": CLUSTER_INITS,
            "law": LAWS,
            "algorithm": ALGORITHMS,
            "layout": ("auto", *LAYOUTS),
            "backend": BACKENDS,
            "estimator": ESTIMATORS,
        }.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("learn_temperature", "shared_membership", "explore_in_evaluation"):
            check_flag(name, getattr(self, name))
        if self.temperature is not None:
            check_range(
                "temperature", self.temperature, 0.0, float("inf"), low_open=True, high_open=True
            )
        if self.init_density is not None:
            check_range("init_density", self.init_density, 0.0, 1.0, low_open=True)
        check_range("exploration", self.exploration, 0.0, 1.0)
        self._check_max_density()

    def _check_max_density(self) -> None:
        bound = self.max_density
        if bound is None:
            return
        check_range("max_density", bound, 0.0, 1.0, low_open=True)
        if not self.exploration < bound:
            raise ValueError(
                f"'max_density' must be above 'exploration' = {self.exploration:g} (which it "
                f"includes), got {bound:g}"
            )
        if self.init_density == 1 and bound < 1:
            raise ValueError(
                f"'max_density' must be 1 or None for dense heads ('init_density' = 1), got "
                f"{bound:g}"
            )

    @property
    def membership_temperature(self) -> float:
        """The factor of the membership logits at the start."""
        return TEMPERATURES[self.membership] if self.temperature is None else self.temperature

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all options."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def gather(
        cls,
        owner: str,
        options: SBMOptions | None,
        given: Mapping[str, Any],
        others: Iterable[str] = (),
    ) -> SBMOptions:
        """One object from an object and keyword arguments, which go before it.

        Args:
            owner: Name of the layer, for errors.
            options: The object, if there is one.
            given: The keyword arguments; ``num_clusters=None`` counts as left out.
            others: Names of the layer's arguments apart from options, for errors.

        Raises:
            ValueError: If a keyword argument is no option, or a value is wrong.
        """
        if options is not None and not isinstance(options, SBMOptions):
            raise ValueError(f"'options' must be SBMOptions, got {type(options).__name__}")
        for name in given:
            if name not in cls.names():
                accepted = ", ".join((*others, *cls.names()))
                raise ValueError(f"the arguments of {owner} must be among {accepted}, got {name!r}")
        chosen = {
            name: value
            for name, value in given.items()
            if name != "num_clusters" or value is not None
        }
        return replace(cls() if options is None else options, **chosen)

    def to_dict(self) -> dict[str, Any]:
        """The options by name, as plain values."""
        return asdict(self)
