"""A trained model and some inputs, or several runs side by side, as one self-contained HTML page.

A report holds one *view* for every (input, layer, head): the sampled adjacency and its expectation
sorted by block, the block graph, memberships, and the strongest neighbours of every token. Views
are binary, gzip-compressed and Base64-encoded, and unpacked by the browser when they are chosen, so
that the page opens fast; plotly.js is embedded likewise. Pages need no network, and their content
security policy forbids it.

Sampled edges near one half density do not compress: 2,048 tokens need up to 512 KiB a view. The
adjacency is therefore exact as long as the page stays below its size limit, and otherwise counts
edges in square bins, as coarse as the limit asks for; the page says which.
"""

from sbmgraph.viz.report.compare import comparison_html, find_runs, write_comparison
from sbmgraph.viz.report.history import density_history
from sbmgraph.viz.report.page import report_html, write_report
from sbmgraph.viz.report.run import ReportInput, Vote
from sbmgraph.viz.report.view import head_view

__all__ = [
    "ReportInput",
    "Vote",
    "comparison_html",
    "density_history",
    "find_runs",
    "head_view",
    "report_html",
    "write_comparison",
    "write_report",
]
