"""Mixed batches in vLLM equal the transformers path: tokens, counts and kept sets."""

from dataclasses import replace

import pytest
import vllm_engine as v

import zipr1
from zipr1.vllm.serve import kv_transfer_config

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def expected():
    """(questions, {(question, p): answer of transformers}, suppressed tokens)."""
    model, processor = zipr1.load("zipr1/tiny")
    questions = [v.prepare(processor, question) for question in v.QUESTIONS]
    answers = {}
    for number, question in enumerate(questions):
        answers[number, 1] = v.transformers_answer(model, question)
        for p in v.THRESHOLDS:
            answers[number, p] = v.transformers_answer(model, question, zipr1.TopP(p))
    return questions, answers, model.generation_config.suppress_tokens or ()


def jobs_of(questions, repeat=1):
    """Each question dense and under every p; (number, p) and (question, settings)."""
    keys = [(n, p) for n in range(len(questions)) for p in (*v.THRESHOLDS, 1)] * repeat
    jobs = [(questions[n], {"p": p, "return_kept": 1} if p < 1 else {}) for n, p in keys]
    return keys, jobs


def test_a_mixed_batch_equals_transformers(expected):
    questions, answers, suppressed = expected
    keys, jobs = jobs_of(questions)
    with v.engine() as llm:
        outputs = v.ask(llm, jobs, suppressed)
    assert v.differences(keys, outputs, answers) == []


def count_preemptions(llm) -> list[int]:
    """Appends 1 to the list at each preemption."""
    scheduler, seen = v.core_of(llm).scheduler, []
    preempt = scheduler._preempt_request

    def counted(*args, **kwargs):
        seen.append(1)
        return preempt(*args, **kwargs)

    scheduler._preempt_request = counted
    return seen


@pytest.mark.parametrize("buckets", [1, 5])
def test_preempted_requests_resume_exactly_and_blocks_are_given_back(expected, buckets):
    questions, answers, suppressed = expected
    keys, jobs = jobs_of(questions)
    transfer = kv_transfer_config(buckets=buckets)
    with v.engine(transfer=transfer, num_gpu_blocks_override=38 * buckets) as llm:
        scheduler = v.core_of(llm).scheduler
        assert len(scheduler.connector.managers) == buckets
        pool = scheduler.kv_cache_manager.block_pool
        preempted, free = count_preemptions(llm), pool.get_num_free_blocks()
        given_back = []
        for manager in scheduler.connector.managers:
            give = manager.free_empty_blocks

            def counted(*args, give=give):
                given_back.append(give(*args))
                return given_back[-1]

            manager.free_empty_blocks = counted
        outputs = v.ask(llm, jobs, suppressed)
        assert preempted, "the pool was large enough for all: nothing was tested"
        assert sum(given_back) > 0
        assert pool.get_num_free_blocks() == free
        assert not (scheduler.connector.requests or scheduler.connector.sparse)
    assert v.differences(keys, outputs, answers) == []


def test_prefix_caching_serves_dense_requests_only(expected):
    """Sparse blocks hold other tokens than the prompt's, so no request may find them."""
    questions, answers, suppressed = expected
    keys, jobs = jobs_of(questions)
    order = [job for key in range(len(keys)) for job in (key, key)]
    with v.engine(enable_prefix_caching=True, max_num_seqs=3) as llm:
        outputs = v.ask(llm, [jobs[i] for i in order], suppressed)
        again = v.ask(llm, jobs, suppressed)
    assert v.differences([keys[i] for i in order], outputs, answers) == []
    assert v.differences(keys, again, answers) == []
    hits = {key: output.num_cached_tokens for key, output in zip(keys, again, strict=True)}
    assert any(hits[key] for key in keys if key[1] == 1)
    assert not any(hits[key] for key in keys if key[1] < 1)


def test_a_split_prompt_stays_dense_and_says_so(expected):
    questions, answers, suppressed = expected
    keys, jobs = jobs_of(questions)
    with v.engine(enable_chunked_prefill=True, max_num_batched_tokens=256) as llm:
        outputs = v.ask(llm, jobs, suppressed)
    split = 0
    for key, output in zip(keys, outputs, strict=True):
        said = v.answer_of(output)
        if "dense" in said:
            split += 1
            assert said["token_ratio"] == 1 and "split" in said["dense"]
            key = (key[0], 1)
        assert v.differences([key], [output], answers) == []
    assert split > 0


def test_short_prompts_stay_dense_under_min_tokens(expected):
    questions, answers, suppressed = expected
    numbers = (0, 5)  # 53 and 27 tokens, see below
    lengths = [len(questions[n].ids) for n in numbers]
    assert min(lengths) < 40 <= max(lengths)
    jobs = [(questions[n], {"p": 0.8, "min_tokens": 40, "return_kept": 1}) for n in numbers]
    with v.engine(transfer=v.connector(p=0.9)) as llm:
        outputs = v.ask(llm, jobs, suppressed)
        default = v.ask(llm, [(questions[0], {"return_kept": 1})], suppressed)
    assert v.differences([(0, 0.8), (5, 1)], outputs, answers) == []
    assert v.answer_of(outputs[1])["dense"] == "the prompt is shorter than min_tokens"
    assert v.differences([(0, 0.9)], default, answers) == []


def test_an_answer_of_one_token_carries_its_ratio(expected):
    """Its request ends in the step that reads the prompt."""
    questions, answers, suppressed = expected
    one = replace(questions[0], tokens=1)
    want = replace(answers[0, 0.6], tokens=answers[0, 0.6].tokens[:1])
    with v.engine() as llm:
        outputs = v.ask(llm, [(one, {"p": 0.6, "return_kept": 1})], suppressed)
        assert not v.core_of(llm).scheduler.connector.unreported
    assert v.differences([0], outputs, {0: want}) == []


def test_an_aborted_request_leaves_nothing_behind(expected):
    questions, answers, suppressed = expected
    with v.engine() as llm:
        scheduler = v.core_of(llm).scheduler
        pool = scheduler.kv_cache_manager.block_pool
        free = pool.get_num_free_blocks()
        params = v.sampling(questions[3], suppressed, p=0.8)
        llm.llm_engine.add_request("gone", {"prompt": questions[4].prompt}, params)
        for _ in range(3):
            llm.llm_engine.step()
        assert scheduler.connector.sparse
        llm.llm_engine.abort_request(list(scheduler.requests), internal=True)
        llm.llm_engine.step()
        assert not (scheduler.connector.requests or scheduler.connector.sparse)
        assert not scheduler.connector.started
        assert pool.get_num_free_blocks() == free
        outputs = v.ask(
            llm, [(questions[4], {}), (questions[4], {"p": 0.6, "return_kept": 1})], suppressed
        )
    assert v.differences([(4, 1), (4, 0.6)], outputs, answers) == []


def test_without_a_sparse_request_the_outputs_are_those_of_stock_vllm(expected):
    """Bit-equal log-probabilities, with the connector and without it."""
    questions, _, suppressed = expected
    found = {}
    for name, transfer in (("connector", None), ("plugin", {})):
        with v.engine(transfer=transfer) as llm:
            found[name] = logprobs(llm, questions, suppressed)
    with v.stock_backend(), v.engine(transfer={}) as llm:
        layers = v.core_of(llm).vllm_config.compilation_config.static_forward_context
        assert {type(layer.impl).__module__.split(".")[0] for layer in layers.values()} == {"vllm"}
        found["stock"] = logprobs(llm, questions, suppressed)
    assert found["connector"] == found["stock"]
    assert found["plugin"] == found["stock"]


def logprobs(llm, questions, suppressed) -> list:
    prompts, params = [], []
    for question in questions:
        prompts.append({"prompt": question.prompt, "multi_modal_data": question.media})
        if not question.media:
            prompts[-1].pop("multi_modal_data")
        params.append(v.sampling(question, suppressed))
        params[-1].logprobs = 3
    return [
        [{token: one.logprob for token, one in step.items()} for step in output.outputs[0].logprobs]
        for output in llm.generate(prompts, params, use_tqdm=False)
    ]
