"""The whole study on the bundled model, recomputed with PyTorch hooks."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers

from experiments import inputs
from experiments.factual_recall import steps
from experiments.factual_recall.opening import open_study
from experiments.factual_recall.page import write_page
from experiments.factual_recall.settings import Settings
from experiments.factual_recall.study import run_study
from experiments.factual_recall.task_prompts import corrupt
from experiments.runs import outputs

TASK = 'city_country'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished study of few prompts, its settings and results."""
  settings = Settings(
    out=str(tmp_path_factory.mktemp('recall') / 'miniworld'),
    tasks=(TASK,),
    shots=(0, 1),
    prompts=48,
    closely=12,
    heads=2,
    text_tokens=256,
    receivers=('L5H2',),
    dtype='float32',
  )
  study = open_study(settings)
  results = run_study(study)
  outputs.write_results(study.folder, results)
  return study, json.loads((study.folder / 'results.json').read_text())


@pytest.fixture(scope='module')
def hf():
  return transformers.AutoModelForCausalLM.from_pretrained(
    inputs.BASE, dtype=torch.float32, attn_implementation='eager'
  ).eval()


def probabilities(hf, study, mask=False, deltas=None):
  """P(answer) and pi of each prompt by HF, one prompt at a time."""
  prompts = study.prompts[TASK, 0]
  found = []
  for row in range(len(prompts)):
    ids = study.tokenizer.encode(prompts.texts[row])
    last = hf.model.layers[-1]

    def alone(module, args, kwargs):
      kwargs['attention_mask'] = kwargs['attention_mask'].clone()
      kwargs['attention_mask'][:, :, -1, :-1] = torch.finfo(torch.float32).min
      return args, kwargs

    def changed(module, args, row=row):
      x = args[0].clone()
      x[:, -1] += torch.from_numpy(deltas[row]).float()
      return (x,)

    hooks = []
    if mask:
      hooks.append(
        last.self_attn.register_forward_pre_hook(alone, with_kwargs=True)
      )
    if deltas is not None:
      hooks.append(hf.model.norm.register_forward_pre_hook(changed))
    with torch.no_grad():
      logits = hf(torch.tensor([ids])).logits[0, -1].double()
    for hook in hooks:
      hook.remove()
    answer = prompts.answers[row]
    raw = torch.atanh(logits / 30) * 30  # before Gemma 2's soft cap
    found.append((logits.softmax(-1)[answer], raw[answer] - raw.mean()))
  return np.array(found, np.float64)


def test_three_numbers_by_hooks(run, hf):
  """P(answer), P(answer) with the mask, a head's direct effect: PyTorch's."""
  study, results = run
  found = results['runs'][0]
  prompts = study.prompts[TASK, 0]
  plain = probabilities(hf, study)
  first = found['first']
  np.testing.assert_allclose(
    plain[:, 0].mean(), first['p_answer']['value'], atol=1e-5
  )
  known = np.array([prompts.task.facts[i].known for i in prompts.subjects])
  masked = probabilities(hf, study, mask=True)[known, 0].mean()
  arms = found['mitigation']['arms']
  np.testing.assert_allclose(
    masked, arms['mask']['mean']['prob']['value'], atol=1e-5
  )

  # The direct effect of the strongest listed head, on the prompts studied.
  sender = next(s for s in found['patching']['listed'] if s['head'] is not None)
  held = np.flatnonzero(known)
  of_known = prompts.take(held)
  some = steps._subset(of_known, study.settings.closely, study.settings.seed)
  rows = held[some]
  taken = prompts.take(rows)
  other = corrupt(study.tokenizer, taken, study.settings.seed)
  writes = [
    _head_write(
      hf, study.tokenizer, batch.texts, sender['layer'], sender['head']
    )
    for batch in (taken, other)
  ]
  changes = _after_post_norm(hf, sender['layer'], writes[0], writes[1])
  deltas = np.zeros((len(prompts), hf.config.hidden_size))
  deltas[rows] = changes
  patched = probabilities(hf, study, deltas=deltas)[rows, 1].mean()
  clean = plain[rows, 1].mean()
  np.testing.assert_allclose(
    100 * (patched / clean - 1), sender['direct']['value'], atol=2e-3
  )


def _head_write(hf, tokenizer, texts, layer, head):
  """What a head writes before the post-norm, and all heads, at the end."""
  attn = hf.model.layers[layer].self_attn
  H = attn.head_dim
  seen = []
  hook = attn.o_proj.register_forward_pre_hook(
    lambda module, args: seen.append(args[0][0, -1].double().numpy())
  )
  with torch.no_grad():
    for text in texts:
      hf(torch.tensor([tokenizer.encode(text)]))
  hook.remove()
  z = np.stack(seen)
  wo = attn.o_proj.weight.double().detach().numpy()
  part = slice(head * H, (head + 1) * H)
  return z[:, part] @ wo[:, part].T, z @ wo.T


def _after_post_norm(hf, layer, clean, corrupted):
  """The change of what attention adds when a head writes its corrupted mean."""
  norm = hf.model.layers[layer].post_attention_layernorm
  gain = 1 + norm.weight.double().detach().numpy()

  def normed(x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps) * gain

  (own, whole), (new, _) = clean, corrupted
  return normed(whole - own + new.mean(0)) - normed(whole)


def test_results_are_whole(run):
  study, results = run
  assert [(r['task'], r['shots']) for r in results['runs']] == [
    (TASK, 0),
    (TASK, 1),
  ]
  assert {c['number'] for c in results['claims']} == set(range(1, 9))
  for claim in results['claims']:
    assert claim['verdict'] in ('holds', 'does not hold', 'cannot be told')
    assert claim['estimate']['n'] and claim['rule'] and claim['what']
  inside = [r for r in results['runs'] if 'inside' in r]
  assert len(inside) == 1 and inside[0]['price']
  assert inside[0]['inside']['not_held'] is not None
  known = results['runs'][0]['first']['known']['p_answer']
  unknown = results['runs'][0]['first']['unknown']['p_answer']
  assert known['value'] > 0.9 > 0.1 > unknown['value']


def test_page_says_it_all(run):
  study, results = run
  table = write_page(study.folder)
  assert table.count('\n') == 2 and 'city_country' in table
  page = (study.folder / 'report.html').read_text('utf-8')
  for title in (
    'Claim by claim',
    'Who passes the argument',
    'Known and unknown',
    'through L5H2',
  ):
    assert title in page


def test_finished_stages_are_kept(run, monkeypatch):
  """The same command computes nothing; another seed does all again."""
  study, results = run

  def refuse(*args, **kwargs):
    raise AssertionError('computed again')

  for name in ('recall', 'inspect', 'price'):
    monkeypatch.setattr(f'experiments.factual_recall.study.{name}', refuse)
  again = run_study(study)
  text = json.dumps(outputs._plain(again['runs']))
  assert json.loads(text) == results['runs']
  other = dataclasses.replace(study.settings, seed=1)
  with pytest.raises(AssertionError, match='computed again'):
    run_study(open_study(other))


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'tasks': ('nowhere',)}, 'no task'),
    ({'receivers': ('L99H0',)}, 'L99H0'),
    ({'shots': (0, 9999)}, '9999 are asked'),
    ({'text': '/nowhere.txt'}, 'nowhere.txt'),
    ({'tasks': (TASK, TASK)}, 'one name'),
    ({'tasks': ('capitals',)}, 'vocabulary'),
  ],
)
def test_bad_input_is_named_first(tmp_path, changes, match):
  settings = Settings(out=str(tmp_path / 'x'), **changes)
  with pytest.raises((ValueError, FileNotFoundError), match=match):
    open_study(settings)
  assert not (tmp_path / 'x').exists()
