"""Pictures of what heads learned and sampled, in matplotlib.

Every function takes ``ax=None`` and returns the Axes it drew on: those of a new figure, which
pyplot does not know of, if none is given (``ax.figure`` is the figure). The numbers behind the
pictures come from :mod:`sbmgraph.analysis`. Large inputs are aggregated, and the title says so.
"""

from sbmgraph.viz.adjacency import (
    plot_block_mass,
    plot_expected,
    plot_expected_and_sampled,
    plot_sampled,
)
from sbmgraph.viz.blocks import plot_bipartite, plot_block_graph, plot_memberships
from sbmgraph.viz.color import block_color
from sbmgraph.viz.density import (
    plot_degrees,
    plot_density_by_head,
    plot_density_by_input,
    plot_density_by_length,
    plot_density_history,
    plot_reach,
)
from sbmgraph.viz.grid import plot_grid
from sbmgraph.viz.tokens import plot_image_neighbours, plot_token_neighbours

__all__ = [
    "block_color",
    "plot_bipartite",
    "plot_block_graph",
    "plot_block_mass",
    "plot_degrees",
    "plot_density_by_head",
    "plot_density_by_input",
    "plot_density_by_length",
    "plot_density_history",
    "plot_expected",
    "plot_expected_and_sampled",
    "plot_grid",
    "plot_image_neighbours",
    "plot_memberships",
    "plot_reach",
    "plot_sampled",
    "plot_token_neighbours",
]
