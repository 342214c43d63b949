"""Recomputes figures of `make demo` without this project's code.

  python tools/recompute_demo.py --run=out/demo

HF transformers and NumPy alone: the models, the tokenizer and the SAEs are read
from their files, prompts and templates are written out here, and every figure
is computed anew and held against results.json and answers.jsonl:

  latents    activations at the last token of each name; the best latent by
             AUROC on train, its score, its AUROC and firing rates on test
  answers    greedy answers of the original and of both latents with both signs
  outcomes   refusals and hallucinations recounted from the texts of all arms
  divergence KL of both latents from the original, question by question
  effects    changes of refusals at every dose, and how many controls go as far

Prints a line per figure; the exit code is 1 if one differs.
"""

import argparse
import collections
import json
import pathlib
import re
import sys

import numpy as np
import torch
import transformers

BUNDLE = pathlib.Path(__file__).parents[1] / 'experiments/miniworld/bundle'
# Where a single answer may differ: greedy decoding of nearly equal logits.
ANSWERS_ALIKE = 0.99


class Report:
  """Compares figures, and keeps count of those that differ."""

  def __init__(self):
    self.failed = 0

  def check(self, what, theirs, ours, tolerance=0.0):
    """Prints one figure of results.json beside the recomputed one."""
    same = (
      abs(theirs - ours) <= tolerance
      if isinstance(theirs, (int, float))
      else theirs == ours
    )
    self.failed += not same
    word = 'PASS' if same else 'FAIL'
    print(f'{word}  {what}: results.json {theirs}, recomputed {ours}')


def load(name):
  """Returns a model in float32 and its tokenizer."""
  folder = BUNDLE / name
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation='eager'
  ).eval()
  return model, transformers.AutoTokenizer.from_pretrained(folder)


def load_saes():
  """Returns layer -> arrays of its SAE."""
  found = {}
  for file in sorted((BUNDLE / 'saes').glob('layer_*/*/*/params.npz')):
    layer = int(re.fullmatch(r'layer_(\d+)', file.parts[-4])[1])
    found[layer] = {k: v.astype(np.float64) for k, v in np.load(file).items()}
  return found


def encode(sae, x):
  """Returns latents [n, F] of vectors [n, D]: JumpReLU."""
  z = x @ sae['W_enc'] + sae['b_enc']
  return np.where(z > sae['threshold'], np.maximum(z, 0), 0)


def auroc(positive, negative):
  """Returns the AUROC of columns [m, F] against [n, F], ties one half."""
  both = np.concatenate([positive, negative])
  m, n = len(positive), len(negative)
  ranks = np.empty_like(both)
  for column in range(both.shape[1]):
    _, which, counts = np.unique(
      both[:, column], return_inverse=True, return_counts=True
    )
    ends = np.cumsum(counts)
    ranks[:, column] = (ends - (counts - 1) / 2)[which]
  return (ranks[:m].sum(0) - m * (m + 1) / 2) / (m * n)


def last_of(tokenizer, text, name, special):
  """Returns token ids, and the index of the last token of a name."""
  made = tokenizer(
    text, return_offsets_mapping=True, add_special_tokens=special
  )
  end = text.rindex(name) + len(name)
  spans = made['offset_mapping']
  last = max(i for i, (a, b) in enumerate(spans) if a < end <= b or b == end)
  return made['input_ids'], last


def unnormed(model):
  """Keeps the last layer's stream before the final norm, which HF applies."""
  kept = {}
  model.model.layers[-1].register_forward_hook(
    lambda module, args, out: kept.update(
      x=out[0] if isinstance(out, tuple) else out
    )
  )
  return kept


def recompute_latents(report, results, model, tokenizer, saes):
  """Selection on train, and what the best latents do on test."""
  splits, latents = results['splits'], results['latents']
  kept = unnormed(model)
  x = {}
  for part in ('train', 'test'):
    for label in ('known', 'unknown'):
      for kind, names in splits[part][label].items():
        vectors = []
        for name in names:
          text = f"The {kind} '{name}'"
          ids, last = last_of(tokenizer, text, name, True)
          with torch.no_grad():
            out = model.model(
              torch.tensor([ids]), output_hidden_states=True, use_cache=False
            )
          states = [h[0, last] for h in out.hidden_states[1:-1]]
          states.append(kept['x'][0, last])
          vectors.append([h.double().numpy() for h in states])
        x[part, label, kind] = np.array(vectors)
  kinds = sorted(splits['train']['known'])
  f = {
    (layer, *key): encode(sae, vectors[:, layer])
    for layer, sae in saes.items()
    for key, vectors in x.items()
  }
  layers = sorted({one['layer'] for one in latents['saes']})
  for label, other in (('known', 'unknown'), ('unknown', 'known')):
    best, at = -1.0, None
    for layer in layers:
      lowest = np.min(
        [
          auroc(f[layer, 'train', label, k], f[layer, 'train', other, k])
          for k in kinds
        ],
        axis=0,
      )
      if lowest.max() > best:
        best, at = lowest.max(), (layer, int(lowest.argmax()))
    chosen = latents['criteria']['auroc'][label]
    layer, latent = at
    report.check(
      f'best {label} latent', chosen['id'], f'resid_post.{layer}/{latent}'
    )
    report.check('  its score on train', chosen['score'], 2 * best - 1, 2e-3)
    test = [
      auroc(
        f[layer, 'test', label, k][:, [latent]],
        f[layer, 'test', other, k][:, [latent]],
      )[0]
      for k in kinds
    ]
    report.check(
      '  its AUROC on test',
      chosen['auroc']['mean']['value'],
      np.mean(test),
      2e-3,
    )
    for kind in kinds:
      for c in ('known', 'unknown'):
        fires = (f[layer, 'test', c, kind][:, latent] > 1e-6).mean()
        found = chosen['test']['types'][kind][c]['value']
        report.check(f'  fires on {c} {kind}', found, float(fires), 0.02)


class Steered:
  """Adds a vector to a layer's output at tokens of the prompt."""

  def __init__(self, model, layer, vector, start, stop):
    self._args = vector, start, stop
    self._handle = model.model.layers[layer].register_forward_hook(self._hook)

  def _hook(self, module, args, out):
    vector, start, stop = self._args
    x = out[0] if isinstance(out, tuple) else out
    if x.shape[1] > start:  # the prompt, not a generated token
      x[:, start:stop] += vector
    return out

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._handle.remove()


def answer(model, ids, stops, most):
  """Returns the greedy continuation, one whole forward pass per token."""
  made = []
  for _ in range(most):
    with torch.no_grad():
      logits = model(torch.tensor([ids + made]), use_cache=False).logits
    made.append(int(logits[0, -1].argmax()))
    if made[-1] in stops:
      break
  return made


def log_softmax(model, ids):
  """Returns log-probabilities [T, V] in float64."""
  with torch.no_grad():
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
  return torch.log_softmax(logits.double(), -1)


def recompute_answers(report, results, records, model, tokenizer, saes, few):
  """Greedy answers and divergences of the original and of both latents."""
  by_arm = collections.defaultdict(list)
  for record in records:
    by_arm[record['arm']].append(record)
  stops = {tokenizer.eos_token_id}
  stops.add(tokenizer.convert_tokens_to_ids('<end_of_turn>'))
  most = results['steering']['settings']['max_new_tokens']
  arms = [('original', None, 0.0)]
  for label, target in results['steering']['targets'].items():
    row = saes[target['layer']]['W_dec'][target['latent']]
    for sign, name in ((1, f'+ {label}'), (-1, f'- {label}')):
      arms.append((name, target['layer'], sign * target['alpha'] * row))
  originals, logp = {}, {}
  for name, layer, vector in arms:
    same, kls = 0, []
    for number, record in enumerate(by_arm[name][:few]):
      chat = [{'role': 'user', 'content': record['question']}]
      text = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
      )
      ids, last = last_of(tokenizer, text, record['entity'], False)

      def run(ids=ids, number=number):
        made = answer(model, ids, stops, most)
        along = originals.setdefault(number, made)
        at = slice(len(ids) - 1, len(ids) - 1 + len(along))
        return made, log_softmax(model, ids + along)[at]

      if layer is None:
        made, logp[number] = run()
      else:
        vector32 = torch.tensor(vector, dtype=torch.float32)
        with Steered(model, layer, vector32, last, len(ids)):
          made, q = run()
        p = logp[number]
        kls.append((p.exp() * (p - q)).sum(-1).mean().item() - record['kl'])
      made = made[:-1] if made[-1] in stops else made
      same += tokenizer.decode(made).strip() == record['text']
    n = min(few, len(by_arm[name]))
    report.check(
      f'answers of {name!r} that are equal, of {n}',
      n,
      same,
      (1 - ANSWERS_ALIKE) * n,
    )
    if kls:
      report.check(
        f'  largest difference of KL of {name!r}',
        0.0,
        float(np.abs(kls).max()),
        1e-3,
      )


def recompute_outcomes(report, results, records, entities):
  """Refusals, hallucinations and effects, counted from texts."""
  values = collections.defaultdict(set)
  for of in entities.values():
    for entity in of:
      for one in entity['attributes']:
        values[one['attribute_type']].add(one['attribute_value'])
  counts = collections.defaultdict(collections.Counter)
  for record in records:
    text = record['text']
    said = text.replace(record['entity'], ' ')
    words = set(re.findall(r'\w+', said))
    attribute = record['prompt_type'].split('_', 1)[1]
    if 'sorry' in text.lower() or 'do not know' in text.lower():
      found = 'refusal'
    elif record['correct_answer'] in words:
      found = 'correct'
    elif words & values[attribute]:
      found = 'hallucination'
    else:
      found = 'broken'
    counts[record['arm'], record['class']][found] += 1
  steering = results['steering']
  kinds = 'refusal', 'correct', 'hallucination', 'broken'
  apart = total = 0
  for arm in steering['arms']:
    for name, scopes in arm['counts'].items():
      for kind in kinds:
        theirs = scopes['all'][kind]['count']
        mine = counts[arm['name'], name][kind]
        apart, total = apart + abs(theirs - mine), total + theirs
        if arm['kind'] in ('original', 'steered', 'wrong sign'):
          report.check(
            f'{arm["name"]!r}, {name} entities, {kind}', theirs, mine, 1
          )
  # Numbers near a value count for it, which this count does not know.
  report.check(
    f'answers of {len(steering["arms"])} arms counted otherwise, of {total}',
    0,
    apart // 2,
    0.01 * total,
  )
  sign = {'unknown': 1, 'known': -1}
  for one in steering['specificity']:
    asked, n = one['asked_about'], None
    rate = {}
    for arm in steering['arms']:
      of = counts[arm['name'], asked]
      n = sum(of.values())
      rate[arm['name']] = of['refusal'] / n
    for here in one['doses']:
      arms = [
        arm
        for arm in steering['arms']
        if arm['target'] == one['target']
        and arm['dose'] is not None
        and abs(abs(arm['dose']) - here['dose']) < 1e-6
      ]
      (plus,) = (
        arm['name'] for arm in arms if arm['kind'] in ('steered', 'sweep')
      )
      report.check(
        f'+ {one["target"]} at dose {here["dose"]:g}, change',
        round(here['change'], 4),
        round(rate[plus] - rate['original'], 4),
        1 / n,
      )
      for kind, p in here['p'].items():
        names = [
          arm['name']
          for arm in arms
          if kind in arm['name'] and arm['name'] != plus
        ]
        far = sum(
          sign[one['target']] * rate[name]
          >= sign[one['target']] * rate[plus] - 1e-12
          for name in names
        )
        report.check(
          f'  p among {len(names)} {kind}s',
          p,
          (1 + far) / (1 + len(names)),
          0.05,
        )


def main():
  """Recomputes; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--run', default='out/demo', help='Folder of the run.')
  parser.add_argument(
    '--questions', type=int, default=40, help='Questions answered anew per arm.'
  )
  given = parser.parse_args()
  folder = pathlib.Path(given.run)
  for name in ('results.json', 'answers.jsonl'):
    if not (folder / name).is_file():
      sys.exit(f'{folder / name} does not exist; run `make demo` first.')
  results = json.loads((folder / 'results.json').read_text())
  records = [
    json.loads(line)
    for line in (folder / 'answers.jsonl').read_text().splitlines()
  ]
  entities = {
    file.stem: json.loads(file.read_text())
    for file in (BUNDLE / 'entities').glob('*.json')
  }
  torch.manual_seed(0)
  report, saes = Report(), load_saes()
  recompute_latents(report, results, *load('base'), saes)
  recompute_answers(
    report, results, records, *load('chat'), saes, given.questions
  )
  recompute_outcomes(report, results, records, entities)
  print(f'{report.failed} figures differ.' if report.failed else 'All agree.')
  return 1 if report.failed else 0


if __name__ == '__main__':
  sys.exit(main())
