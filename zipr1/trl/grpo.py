"""GRPOTrainer under sparse attention: rollouts with thresholds of their own, whose selection of
tokens the loss replays."""

from contextlib import ExitStack

import torch

from zipr1.common.errors import InputError, RunError
from zipr1.trl.block import SparseBlock, check_plain

ROWS = ("p", "kept", "token_ratio", "gate", "number")  # what a rollout carries to its loss


class SparseGRPO(SparseBlock):
    """`class Mine(SparseGRPO, GRPOTrainer)`: the policy samples and learns under sparse attention,
    each rollout under its own threshold; the reference of the KL is dense.

    Reward functions get the column `token_ratio`; `efficiency` is one of them. Logged are
    token_ratio, flip_rate (how much of a rollout's selection a fresh one would not repeat) and,
    with a sparsity_weight, frac_above_target.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        options = self.args
        check_plain(
            {
                "use_vllm": options.use_vllm,
                "use_transformers_continuous_batching": options.use_transformers_continuous_batching,
                "tools": self.tools,
                "environment_factory": self.environment_factories,
                "rollout_func": getattr(self, "rollout_func", None),
                "use_liger_kernel": getattr(options, "use_liger_kernel", False),
            }
        )
        self.gate_index = self.place_of_gate() if self.sparse_settings.gate == "answer" else None
        self.thresholds: tuple[float, ...] = ()
        self.generated: dict[str, torch.Tensor] = {}  # of the last rollouts, in their order
        self.passes = 0  # over the last rollouts, before the loss
        self.in_loss = False

    def place_of_gate(self) -> int:
        """The column of the reward that says which answers are correct."""
        name, known = self.sparse_settings.gate_reward, list(self.reward_func_names)
        if name is not None and name not in known:
            raise InputError(
                f"gate_reward={name!r}: the reward functions are {', '.join(known)}; name one"
            )
        return 0 if name is None else known.index(name)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, **more):
        group = self.num_generations if self.model.training else self.num_generations_eval
        self.thresholds = self.drawn_thresholds(len(prompt_ids), group)
        with ExitStack() as stack:
            trace = self.enter(stack, self.thresholds, None)
            result = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, **more
            )
        device = self.accelerator.device
        processes = self.accelerator.num_processes
        first = (self.batch * processes + self.accelerator.process_index) * len(prompt_ids)
        self.generated = {
            "p": torch.tensor(self.thresholds, dtype=torch.float64, device=device),
            "kept": torch.stack([layer.to(device) for layer in trace.kept], dim=1),
            "token_ratio": trace.token_ratio.to(device),
            "gate": torch.ones(len(prompt_ids), device=device),
            "number": first + torch.arange(len(prompt_ids), device=device),
        }
        return result

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if "token_ratio" in inputs[0]:
            raise InputError("token_ratio: the data set has this column; rename it")
        ratios = self.generated["token_ratio"].tolist()
        rows = [row | {"token_ratio": ratio} for row, ratio in zip(inputs, ratios, strict=True)]
        rewards = super()._calculate_rewards(rows, prompts, completions, completion_ids_list)
        if self.gate_index is not None:
            first = self.accelerator.process_index * len(prompts)
            own = rewards[first : first + len(prompts), self.gate_index]
            self.generated["gate"] = (own > 0.5).float()
        return rewards

    def _generate_and_score_completions(self, inputs):
        self.passes = 0
        output = super()._generate_and_score_completions(inputs)
        self.note("token_ratio", self.generated["token_ratio"])
        if self.generated["kept"].shape[-1] != output["prompt_ids"].shape[1]:
            raise RunError("the prompts of the loss are padded to another length than in sampling")
        return output | {f"sparse_{name}": self.generated[name] for name in ROWS}

    def _get_per_token_logps_and_entropies(self, model, input_ids, *args, **kwargs):
        """In the loss, a block is open. Of the passes before it, the first is the policy's where
        TRL needs old log-probabilities, and all others are the reference's, which is dense."""
        every = self.args.steps_per_generation * self.num_iterations
        policy = self.args.gradient_accumulation_steps % every and not self.passes
        self.passes += 1
        if self.in_loss or not policy:
            return super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)
        kwargs["batch_size"] = None  # thresholds belong to the whole batch
        kept = self.generated["kept"]
        with ExitStack() as stack:
            self.enter(stack, self.thresholds, kept.shape[-1], replay=list(kept.unbind(1)))
            return super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)

    def _compute_loss(self, model, inputs):
        rows = {name: inputs[f"sparse_{name}"] for name in ROWS}
        self.thresholds = tuple(rows["p"].tolist())
        stack = self.block if self.block is not None else ExitStack()
        trace = self.enter(
            stack,
            self.thresholds,
            inputs["prompt_ids"].shape[1],
            replay=list(rows["kept"].unbind(1)),
            sample_numbers=rows["number"].tolist(),
        )
        self.in_loss = True
        try:
            loss = super()._compute_loss(model, inputs)
            self.note("flip_rate", torch.stack(trace.flipped).float().mean(0))
            if trace.relaxed:
                term = self.sparsity_term(trace, rows["token_ratio"], rows["gate"])
                # TRL divides its loss by the steps of accumulation itself, and so does this.
                loss = loss + term / self.current_gradient_accumulation_steps
        finally:
            self.in_loss = False
            if stack is not self.block:  # an evaluation: there is no backward pass
                stack.close()
        return loss


def efficiency(completions, token_ratio, **columns) -> list[float]:
    """A reward function of TRL: 1 - token ratio of each rollout (Eq. 4 of ZipR1)."""
    return [1.0 - ratio for ratio in token_ratio]
