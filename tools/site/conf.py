"""How Sphinx builds the site: `tools/build_site.py` copies this file beside the pages and runs it.

Nothing is fetched: no font, script or formula comes from elsewhere, and search works from a file.
"""

project = "cmbfe"
html_title = "cmbfe"
author = "the authors of cmbfe"
extensions = ["myst_nb"]
root_doc = "index"
exclude_patterns = ["_static"]

nb_execution_mode = "off"  # the pages are executed notebooks
nb_ipywidgets_js = {}  # myst-nb's default comes from another server
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables that cells show as Markdown; CommonMark has none
myst_heading_anchors = 3
myst_enable_extensions = []  # no formulas: MathJax would come from another server

html_use_index = False
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("enlarge.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # a browser does not let a page read its neighbours from a file
html_last_updated_fmt = None

suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]
