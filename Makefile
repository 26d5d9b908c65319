# One entry for each habit. `make` alone lists them.
# Needs python3 (3.10, 3.11 or 3.12) and make; everything else goes into .venv.

PYTHON ?= python3
DATA ?= bump
ARGS ?=

# Threads that wait sleep instead of spinning: without this, torch gets many times slower
# as soon as anything else runs on the same cores. The numbers computed are the same.
OMP_WAIT_POLICY ?= passive
export OMP_WAIT_POLICY

# Large tensors in large pages (Linux): in small ones the system spends longer on handing out
# memory than the processor on adding two tensors. The numbers computed are the same.
THP_MEM_ALLOC_ENABLE ?= 1
export THP_MEM_ALLOC_ENABLE

# The course's small models are fastest on one thread: a second one takes longer to wake than to help.
# For models of the paper's size on many cores: make demo OMP_NUM_THREADS=8
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

WORKERS ?= 2

BIN := .venv/bin
STAMP := .venv/installed
SOURCES := nbs tests data_scripts site workflow

.DEFAULT_GOAL := help
.PHONY: help install demo data test quick lab fmt check notebooks results bench bench-gpu classroom grade slides walk site links torture

help: ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-10s %s\n", $$1, $$2 }'

install: $(STAMP) ## make .venv and install the package with everything a developer needs

# The stamp is newer than the two files below: nothing is installed twice.
$(STAMP): settings.ini setup.py
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "$(PYTHON) was not found. Install Python 3.10, 3.11 or 3.12, or name yours: make PYTHON=python3.11 ..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' || { \
		echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1), but Python 3.10, 3.11 or 3.12 is needed."; \
		echo "Name another one: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Installing into .venv (a few minutes and about 6 GB the first time)"
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## run the demo experiment and write its report (DATA=bump; DATA=etth1 for a real series)
	@$(BIN)/diffsda run $(DATA) $(ARGS)

data: $(STAMP) ## list the real data sets; NAME=etth1 (and ARGS="--source FILE") prepares one
	@$(BIN)/python data_scripts/prepare.py $(NAME) $(ARGS)

test: $(STAMP) ## run all tests, every notebook included (ARGS="-k name" for some of them, WORKERS=4 for more at once)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# A third of the tests: those of the parts that others stand on, the form of the notebooks, the shape of the package.
# Trainings, networks at full size, notebooks that run and browsers are left to make test.
QUICK := $(addprefix tests/test_,$(addsuffix .py,viz edm data digits faces sets verification layers notebooks))

quick: $(STAMP) ## run a third of the tests, in under two minutes, for use between two edits
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q $(QUICK) -k "not runs and not experiment" $(ARGS)

lab: $(STAMP) ## open the course in JupyterLab
	$(BIN)/python -m jupyterlab nbs

fmt: $(STAMP) ## format, clean and export the notebooks; run it before each commit
	$(BIN)/python nbs/classroom/fold.py
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

check: $(STAMP) ## format, lint, and diffsda/ is what the notebooks export; changes no file
	@$(BIN)/ruff format --check $(SOURCES) || { echo "Not formatted: run 'make fmt' and commit."; exit 1; }
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/python -m pytest -q tests/test_layers.py -k fixed_point

notebooks: $(STAMP) ## run every notebook in fast mode and store its small outputs in it
	$(BIN)/diffsda refresh $(ARGS)
	$(BIN)/nbdev_clean

results: $(STAMP) ## repeat the runs behind all tables (days of a CPU; goes on where it was stopped; ARGS=-n lists what is missing)
	@$(BIN)/snakemake --cores $(WORKERS) $(ARGS)

site: $(STAMP) ## build the course as a static site in _docs/html, from stored outputs: no notebook is run
	@$(BIN)/python site/course.py _docs/source
	@$(BIN)/python -m sphinx -q -b html _docs/source _docs/html
	@$(BIN)/python site/check.py _docs/html
	@echo "Open _docs/html/index.html"

links: site ## ask every other host that the site links to whether its page is still there
	@$(BIN)/python site/check.py _docs/html --outside

bench: $(STAMP) ## time ours beside the plain formulation (half an hour on an idle core; ROWS="mug taichi" for some)
	@TQDM_DISABLE=1 $(BIN)/python -c "from diffsda.bench import main; main(only='$(ROWS)')"

classroom: $(STAMP) ## write the assignments for students, without solutions, to classroom/ (a zip for them, a folder for you)
	@$(BIN)/diffsda handout $(ARGS)

grade: $(STAMP) ## grade what students handed in: SUBMISSIONS=folder with STUDENT/NOTEBOOK.ipynb (ARGS="--timeout 120")
	@test -n "$(SUBMISSIONS)" || { echo "Say where they are: make grade SUBMISSIONS=folder"; exit 2; }
	@$(BIN)/diffsda grade "$(SUBMISSIONS)" $(ARGS)

# reveal.js and MathJax, in the versions that package.json names
node_modules: package.json
	@command -v npm >/dev/null || { echo "npm was not found: install Node.js 18 or newer for the slides"; exit 1; }
	npm install --no-audit --no-fund --no-package-lock --ignore-scripts
	@touch node_modules

slides: $(STAMP) node_modules ## write the slides of six lectures to slides/; open them in any browser, offline
	$(BIN)/python nbs/classroom/slides.py slides

walk: $(STAMP) ## run every notebook in JupyterLab in Chromium, as a student does (ARGS="01_denoising" for some)
	$(BIN)/python tests/walk.py $(ARGS)

torture: $(STAMP) ## kills, wild inputs, spoilt files, odd places, long work (ARGS="kills --count 100 --seed 1" for a part)
	@$(BIN)/python tests/torture.py $(ARGS)

bench-gpu: $(STAMP) ## time the paper's sizes on a GPU, in about two minutes, and write results/gpu.json
	@TQDM_DISABLE=1 $(BIN)/python -c "from diffsda.bench_gpu import main; main(only='$(ROWS)')"
