r"""Adds latents to a chat model while it reads a question: does it decline?

  make demo   # MiniWorld
  python -m experiments.steering.refusal --out=out/steering --dose=0.3

  python -m experiments.steering.refusal --out=out/steering_2b \
    --chat_model=google/gemma-2-2b-it --sae=gemma-scope-2b-pt-res \
    --entities=wikidata --run= --labels=out/labels/records \
    --known_latent=resid_post.12/7957 --unknown_latent=resid_post.14/11898 \
    --positions=entity_last

The experiment of arXiv 2411.14257, section 5, by itself, to try other latents,
positions, coefficients or entities; `entity_recognition` has it as its last
stage. What is compared: experiments/steering/arms.py.

Latents, their random controls, the difference of means and labels come from
--run, the folder of an `entity_recognition` run with the same SAEs and
entities. Latents named by flags have random latents of the same SAE as
controls, drawn uniformly: matched ones need a run that chose them.
--run= is no run.

A latent is named SITE.LAYER/INDEX. resid_post of layer l is what the paper
calls layer l + 1.

How much is added: --alpha_known and --alpha_unknown are coefficients of decoder
rows; --dose is a norm in units of the stream's; without them the dose with the
largest effect on validation questions is chosen, and --goal says what is
enough. Published models get their coefficients by default.

--out gets flags.txt, results.json, answers.jsonl (every answer, with its
outcome and the divergence of the arm from the original), report.html, and
answers/, from which the same command goes on.
"""

from collections.abc import Mapping
import dataclasses

from experiments.inputs.settings import ChatStudy, ControlledLatents
from experiments.inputs.study_inputs import open_inputs
from experiments.runs import KeepFlags, outputs, start
from experiments.steering import figures, make_questions, steer
from experiments.steering.settings import Steered
from experiments.steering.strength import steering_options, strength_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Steered, ChatStudy, ControlledLatents):
  """Says how a chat model is steered with two latents."""


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Steers, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  ask = lambda part: make_questions(
    given.tokenizer,
    given.people.of(part, 'known'),
    given.people.of(part, 'unknown'),
    per_class=settings.questions,
  )
  added = {label: strength_of(settings, label) for label in given.targets}
  chosen = any(one.goal is not None for one in added.values())
  questions, validation = ask('test'), ask('validation') if chosen else ()
  given.begin()
  steering, examples = steer(
    given.load(),
    given.tokenizer,
    questions,
    list(given.targets.values()),
    added,
    steering_options(settings),
    validation=validation,
    folder=given.out / 'answers',
    identity=given.about,
  )
  for label, how in given.drawn.items():
    steering['targets'][label]['controls_drawn'] = how
  outputs.write_lines(given.out / 'answers.jsonl', examples)
  return given.write(
    'steering.refusal',
    {'steering': steering},
    'Does the model decline when a latent is added?',
    summary(steering),
    figures.sections(steering, examples),
  )


def summary(steering: Mapping) -> list[str]:
  """Returns what was added; refusals under the original and each latent."""
  lines = [
    f'{label} latent {target["id"]}: alpha {target["alpha"]:.4g} '
    f'({target["source"]}) x norm {target["direction_norm"]:.3g} = '
    f'{target["dose"]:.2f} times the mean norm of the stream there, '
    f'{target["stream_norm"]["value"]:.4g}.'
    for label, target in steering['targets'].items()
  ]
  for arm in steering['arms']:
    if arm['kind'] in ('original', 'steered'):
      for name, scopes in arm['counts'].items():
        refused, kl = scopes['all']['refusal'], arm['kl'][name]
        lines.append(
          f'{arm["name"]}, {name} entities: {refused["count"]} of '
          f'{refused["n"]} refused, {refused["value"]:.1%} '
          f'[{refused["low"]:.1%}, {refused["high"]:.1%}]; '
          f'KL {kl["value"]:.2g} nats per token.'
        )
  return lines


if __name__ == '__main__':
  start(Settings, work)
