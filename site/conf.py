"""How Sphinx builds the course's site from what course.py wrote; no notebook is run."""

from configparser import ConfigParser
from pathlib import Path

from sphinx import addnodes

ROOT = Path(__file__).resolve().parent.parent
facts = ConfigParser(delimiters=["="], interpolation=None)
facts.read(ROOT / "settings.ini", encoding="utf-8")
facts = facts["DEFAULT"]

project = facts["title"]
author = facts["author"]
copyright = facts["copyright"]
release = facts["version"]
language = "en"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.mathjax"]
exclude_patterns = ["**/.ipynb_checkpoints"]
nitpicky = True  # a name that the reference does not know is a warning
add_module_names = False
toc_object_entries_show_parents = "hide"

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # widgets need another host: notebooks keep a still picture beside each
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ["myst.header", "misc.highlighting_failure", "mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_extra_path = ["extra"]  # relative to the prepared sources, see course.py
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

# Formulae are drawn by a copy that is served with the site (static/mathjax, from mathjax.tar.xz).
# What MathJax would fetch from its own host, glyphs and spoken formulae, is served here or off.
mathjax_path = "mathjax/tex-svg.js"
mathjax_config_path = "mathjax.js"


def title_alone(toc):
    "The contents of a page without its headings: its title, and the pages that it leads to."
    toc = toc.deepcopy()
    if next(toc.findall(addnodes.toctree), None) is None:
        for item in toc.children:
            item.children[1:] = []
    return toc


def titles_only(app, page, template, context, doctree):
    "The tree beside every page shows titles alone; copying all headings of all pages for each of them first was a third of the build."
    tree, env = context.get("toctree"), app.env
    if tree is None:
        return
    if not hasattr(app.builder, "title_tocs"):
        app.builder.title_tocs = {name: title_alone(toc) for name, toc in env.tocs.items()}

    def of_titles(**options):
        whole, env.tocs = env.tocs, app.builder.title_tocs
        try:
            return tree(**options)
        finally:
            env.tocs = whole

    context["toctree"] = of_titles


def setup(app):
    app.connect("html-page-context", titles_only, priority=100)  # before the theme draws its tree
