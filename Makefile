# The README's two commands. Both make .venv first; nothing else is needed on a fresh machine with
# Python 3.11, make and git (and root on Debian, for the browser and the database that
# tests use).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup demo reproduce evidence test browser postgresql clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON); set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[encoders,paper,explain,serve,onnx,mimic,meds,scale,track,search,dev]'
	touch $@

demo: setup
	$(BIN)/adacomed demo --out runs/demo

# Every table and figure of the paper that needs no credentialed data, and ours beside them.
MMIST ?= ../shared/data/mmist-ccrcc
REPRODUCE = OMP_NUM_THREADS=1 $(BIN)/adacomed reproduce
reproduce: setup
	test -e cohorts/mmist-ccrcc || $(BIN)/adacomed cohort build mmist-ccrcc --source $(MMIST) --out cohorts/mmist-ccrcc
	test -e cohorts/simulated || $(BIN)/adacomed cohort build simulated --samples 1000 --out cohorts/simulated
	$(BIN)/adacomed reproduce table6 --out runs/reproduce
	for what in table5 table4 fig2 fig6 ablation; do \
	  $(REPRODUCE) $$what --cohort cohorts/mmist-ccrcc --out runs/reproduce/mmist || exit 1; done
	for what in table2 table3 fig2 fig4 fig5 fig6 ablation; do \
	  $(REPRODUCE) $$what --cohort cohorts/simulated --out runs/reproduce/simulated || exit 1; done
	$(REPRODUCE) ceiling --out runs/reproduce/ceiling

# docs/evidence.md, by docs/protocol.md: about an hour and a half on 2 cores.
TABLE = small,small?small.kind=shallow,large-ensemble,average,logistic,forest,extra-trees,boosting,lightgbm
QUICKER = --split-seeds 100 training.members=1 training.inner_folds=3 small.kind=stack
EVIDENCE = OMP_NUM_THREADS=1 $(BIN)/adacomed reproduce
evidence: setup
	test -e cohorts/mmist-ccrcc || $(BIN)/adacomed cohort build mmist-ccrcc --source $(MMIST) --out cohorts/mmist-ccrcc
	$(EVIDENCE) rivals --cohort cohorts/mmist-ccrcc --out runs/evidence/mmist \
	  --methods "$(TABLE),clinical-large,wsi-large,late-fusion,weighted-late-fusion,logistic-all,haim"
	$(EVIDENCE) rivals --cohort configs/cohorts/icu-demo-stats.yaml 'modalities=[stats, static]' --split-seeds 100 \
	  --out runs/evidence/icu --methods "small,small?small.kind=shallow,large-ensemble,average,logistic,forest,lightgbm,gru"
	$(EVIDENCE) rivals --cohort configs/cohorts/covid-cxr-thumbnails.yaml --out runs/evidence/covid \
	  --methods "$(TABLE),xray-large,note-large,late-fusion,weighted-late-fusion,logistic-all"
	$(EVIDENCE) simulated-grid --out runs/evidence/simulated
	$(EVIDENCE) weights --cohort cohorts/mmist-ccrcc $(QUICKER) --out runs/evidence/mmist
	test -e cohorts/simulated || $(BIN)/adacomed cohort build simulated --samples 1000 --out cohorts/simulated
	$(EVIDENCE) weights --cohort cohorts/simulated $(QUICKER) --out runs/evidence/simulated

browser: # the report's tests open it in a real browser
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }

postgresql: # the tests of --database start a server of their own
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq postgresql >/dev/null; }

# What tests compare with and nothing else imports: timm, and torchvision for it (a CUDA build, which
# beside a CPU torch breaks transformers), so they lie apart and only a test's subprocess sees them.
$(VENV)/oracles: $(STAMP)
	$(BIN)/python -m pip install -q --no-deps --target $@ timm==1.0.31 torchvision==0.28.0
	touch $@

# ACES makes the labels of a test of MEDS; it needs an older polars, so it lies apart likewise.
$(VENV)/aces: $(STAMP)
	$(BIN)/python -m pip install -q --target $@ es-aces==0.7.3 polars==1.44.2 meds==0.4.1
	touch $@

test: setup browser postgresql $(VENV)/oracles $(VENV)/aces
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
