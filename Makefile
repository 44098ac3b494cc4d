PY := .venv/bin/python

.PHONY: demo test slow lint setup
demo: setup
	.venv/bin/zipr1 demo

test: setup lint
	$(PY) -m pytest -q

slow: setup
	$(PY) -m pytest -q -m slow

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(PY) || python3 -m venv .venv
	.venv/bin/pip install --quiet uv
	.venv/bin/uv pip install --quiet --python $(PY) -c constraints.txt -e '.[dev,demo]'
	touch $@
