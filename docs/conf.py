"""Sphinx's settings for the site. `python -m mi_course site` builds it: it stages the sources under build/ first."""

import sys
from pathlib import Path

from mi_course import __version__
from mi_course.course import places

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
place = places.settings()["tool"]["mi-course"]

project, author, language, release = "mi_course", "The mi_course authors", "en", __version__
copyright = f"{author}, MIT License"
extensions = [
    "myst_nb", "sphinx_design", "sphinx_copybutton", "sphinx.ext.mathjax",
    "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "mi_site",
]  # fmt: skip
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # annotations: names of torch, and parts without a page
# Cards end in +++: sphinx-design 0.6, the last for Python 3.10, has no card-footer, and 0.8 warns of the old form.
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.copy_overwrite", "design.card_legacy"]

# Notebooks are shown as they are stored, or as they were executed last; nothing runs here.
nb_execution_mode, nb_merge_streams = "off", True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_block", "attrs_inline"]
myst_heading_anchors = 4  # as on GitHub

# The maths: one file, from the package sphinx-mathjax-offline, beside the pages.
mathjax_path = places.mathjax().name
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings, autodoc_preserve_defaults = False, True
autodoc_typehints_format, default_role = "short", "literal"
maximum_signature_line_length = 88
add_module_names = toc_object_entries = False

html_theme, html_title, html_permalinks_icon = "sphinx_book_theme", "mi_course", "#"
templates_path = ["_templates"]
html_context = {"default_mode": "auto", "place": place}
html_static_path = [str(places.mathjax()), "_static"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_copy_source, html_show_sphinx = False, False
html_theme_options = {
    "repository_url": "https://github.com/{owner}/{repo}".format(**place), "repository_branch": place["branch"],
    "use_repository_button": True, "use_download_button": False,  # neighbours.html offers notebook and student copy
    "home_page_in_toc": True, "show_navbar_depth": 1, "max_navbar_depth": 2, "show_toc_level": 2, "toc_title": "On this page",
    "article_header_start": ["toggle-primary-sidebar.html", "neighbours.html"], "navbar_start": [], "navbar_persistent": [],
    "pygments_light_style": "a11y-high-contrast-light", "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_content_items": ["copyright.html"],
}  # fmt: skip
aside = ["navbar-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]
html_sidebars = {"[!_]**": aside, "_modules/**": aside[:2]}  # pages of source code do without the tree
