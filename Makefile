PY := .venv/bin/python

.PHONY: demo test slow lint
demo: .venv/demo
	.venv/bin/zipr1 demo

test: .venv/dev lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

slow: .venv/dev
	$(PY) -m pytest -q -m slow

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# What a user needs, and what the tests need beside it (lmms-eval is large).
.venv/demo: pyproject.toml constraints.txt
	test -x $(PY) || python3 -m venv .venv
	.venv/bin/pip install --quiet uv
	.venv/bin/uv pip install --quiet --python $(PY) -c constraints.txt -e '.[demo]'
	touch $@

.venv/dev: .venv/demo
	.venv/bin/uv pip install --quiet --python $(PY) -c constraints.txt -e '.[dev,lmms]'
	touch $@
