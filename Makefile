PY := .venv/bin/python

.PHONY: demo test slow lint docs tiny13
demo: .venv/demo
	.venv/bin/zipr1 demo

test: .venv/dev lint docs
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

slow: .venv/slow
	$(PY) -m pytest -q -m slow

# The thirteen families: both presets trained (side by side with -j 2), the table with the baselines, the page.
tiny13: runs/tiny13_exact/final runs/tiny13_paper/final
	.venv/bin/zipr1 eval zipr1/tiny --suite tiny13 --trained paper=runs/tiny13_paper/final,exact=runs/tiny13_exact/final \
		--output_dir runs/tiny13
	.venv/bin/zipr1 report runs/tiny13 -o runs/tiny13/report.html

runs/tiny13_exact/final: | .venv/demo
	OMP_NUM_THREADS=1 .venv/bin/zipr1 train tiny13_zipr1 --resume --output_dir runs/tiny13_exact
runs/tiny13_paper/final: | .venv/demo
	OMP_NUM_THREADS=1 .venv/bin/zipr1 train tiny13_zipr1 --preset paper --dense_share 0 \
		--resume --output_dir runs/tiny13_paper

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

# The documentation, with strict links, into site/ (readable from disk, without network).
docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 .venv/bin/mkdocs build --strict

# What a user needs, and what the tests need beside it (lmms-eval is large).
.venv/demo: pyproject.toml constraints.txt
	test -x $(PY) || python3 -m venv .venv
	.venv/bin/pip install --quiet uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) -c constraints.txt -e '.[demo]'
	touch $@

.venv/dev: .venv/demo
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) -c constraints.txt -e '.[dev,lmms]'
	touch $@

# DeepSpeed compiles what it needs on a CPU when it is first used, not now.
.venv/slow: .venv/dev
	DS_BUILD_OPS=0 .venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) -c constraints.txt -e '.[dev,lmms,deepspeed]'
	touch $@
