"""What a model writes after a prompt (Table 10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import Field

from reproducer.evaluation.measured import Generation
from reproducer.queue import Context
from reproducer.spec import Count, Listed, Section, Spec, Text
from reproducer.stages.base import ModelState, write_result
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.measure import Measure, register

NEW_TOKENS = 64


@register
class Generate(Measure):
    """The greedy continuation of a prompt."""

    kind: ClassVar[str] = "generation"
    Result: ClassVar = Generation

    prompt: str
    number: int
    max_new_tokens: int = NEW_TOKENS

    class Keys(Section):
        """`generate`: the prompts; after each, at most `new_tokens` are written."""

        generate: Listed[Text] = Field(default_factory=list)
        new_tokens: Count = NEW_TOKENS

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        return [
            cls(
                **state.fields,
                prompt=prompt,
                number=number,
                max_new_tokens=evaluate.new_tokens,
                label=f"{state.label}: text after a prompt",
            )
            for number, prompt in enumerate(evaluate.generate)
        ]

    @property
    def role(self) -> str:
        return f"generation_{self.number}"

    def run(self, context: Context) -> None:
        from reproducer.evaluation.generation import generate

        model, tokenizer = self.load(context)
        text = generate(model, tokenizer, self.prompt, self.max_new_tokens)
        write_result(context, Generation(prompt=self.prompt, text=text))

    def cost(self, model: ModelShape) -> Cost:
        prompt = model.tokens(len(self.prompt))
        return model.passes(prompt, prompt, scored=0) + model.written(self.max_new_tokens)
