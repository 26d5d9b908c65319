"Packaging: everything is read from settings.ini, which nbdev reads too."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {
    key.removesuffix("_requirements"): requirements.split()
    for key, requirements in cfg.items()
    if key.endswith("_requirements")
}
# developers have every extra but that of the detectors of faces, which tests replace
extras["dev"] += sum((extras[kind] for kind in extras if kind not in ("dev", "faces")), [])

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    url=cfg["git_url"],
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Education",
        "Programming Language :: Python :: 3",
    ],
    packages=find_packages(include=["diffsda", "diffsda.*"]),
    python_requires=f">={cfg['min_python']},<3.13",
    package_data={"diffsda": ["zoo_models/*/*"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    zip_safe=False,
)
