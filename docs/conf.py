"""The documentation's site: `make docs` builds it, offline, with warnings as errors."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "docs" / "_ext")]

import hpr  # noqa: E402

# For the notebooks' processes. Threads that wait for each other are slow on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project, author, release = "hpr", "The hpr authors", hpr.__version__
# The year would make two builds of one commit differ.
project_copyright = "The hpr authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "docstrings"]
exclude_patterns = ["_ext"]
nitpicky = True
# Aliases, type variables and types of single parameters, which have no entry of their own.
NO_ENTRY = (
    "Checkpoints", "Distribution", "Kind", "PackState", "Record", "Rescale", "RunLog",
    "Signalled", "StandIn", "Stopped", "Stopping", "Structure", "TaskOf", "Tensor", "Train",
)  # fmt: skip
# The second pattern: types of other libraries, whose inventories would have to be downloaded.
nitpick_ignore_regex = [
    (r"py:.*", rf"(.*\.)?({'|'.join(NO_ENTRY)})"),
    (
        r"py:.*",
        r"(torch|numpy|np|pandas|matplotlib|scipy|collections|pathlib|os|abc|typing|enum)\..*",
    ),
]

myst_heading_anchors = 3
# Equations are plain text, as in the docstrings: no script is needed to show them, on GitHub or offline.
highlight_language = "text"
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = f"hpr {release}"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["own.css"]


def site_links(app, docname, source):
    """Point links to the kernels' README to the page of the site that includes it; put pages below others.

    The pages of results are written without toctrees, which GitHub would show as code.
    """
    source[0] = re.sub(r"\]\((?:\.\./)+kernels/README\.md", "](/kernels.md", source[0])
    if docname == "results/README":
        below = [f"figure_{number}" for number in range(1, 20)] + ["theory"]
    elif docname.startswith("results/"):
        below = [f"../gallery/figure_{docname.rpartition('/')[2].removeprefix('figure_')}"]
    else:
        return
    source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *below, "```", ""])


def setup(app):
    """Sphinx calls this."""
    app.connect("source-read", site_links)
