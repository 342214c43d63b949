"""What a latent is about: which entities it fires on, which tokens it promotes,
and where in a text it is active.
"""

from collections.abc import Sequence

import numpy as np

from experiments.activations import HarvestRows, latent_activations
from experiments.latents.labelled import CLASSES, LabelledEntities
from experiments.latents.ranking import LatentId
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE


def sae_of(id: LatentId, saes: Sequence[JumpReLUSAE]) -> JumpReLUSAE:
  """Returns the SAE that has a latent. Raises KeyError if there is none."""
  for sae in saes:
    if (sae.origin.site, sae.origin.layer) == id[:2]:
      return sae
  raise KeyError(
    f'There is no SAE for {id}, only {[str(s.origin) for s in saes]}.'
  )


def top_entities(
  entities: LabelledEntities, activations: np.ndarray, k: int = 10
) -> list[dict]:
  """Returns the k entities that a latent is most active on, among those it
  fires on.

  Args:
    entities: n of them.
    activations: float [n].
    k: How many; equals are in the order of the entities.

  Returns:
    Dicts with 'name', 'type', 'label' and 'activation'.
  """
  activations = np.asarray(activations)
  order = np.argsort(-activations, kind='stable')[:k]
  return [
    {
      'name': entities.names[i],
      'type': entities.types[entities.type_of[i]],
      'label': CLASSES[0 if entities.known[i] else 1],
      'activation': float(activations[i]),
    }
    for i in order
    if activations[i] > 0
  ]


def promoted_tokens(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  direction,
  k: int = 10,
  *,
  final_norm_gain: bool = False,
) -> dict:
  """Returns the tokens whose logits a direction raises and lowers most (logit
  lens).

  Logits are d @ W_U, with the tied embedding as W_U: what is shown for latents
  elsewhere. A direction has no scale to normalise and is not soft-capped.

  Args:
    model: The model, whose embedding and final norm are used.
    tokenizer: Spells the tokens.
    direction: float [D], such as a row of W_dec.
    k: How many of each.
    final_norm_gain: Multiply the direction by the final norm's gain, 1 + w,
      first, as on its way through the model.

  Returns:
    'promoted' and 'suppressed', lists of dicts with 'token', 'id' and 'logit',
    the strongest first; and 'final_norm_gain'.

  Raises:
    ValueError: the direction is not [D].
  """
  # An embedding may have more rows than there are tokens.
  logits = np.asarray(
    gj.to_vocabulary(model, np.asarray(direction), gain=final_norm_gain)
  )
  logits = logits[: tokenizer.vocab_size]

  def described(ids):
    spelled = tokenizer.token_strings(ids)
    return [
      {'token': token, 'id': int(i), 'logit': float(logits[i])}
      for token, i in zip(spelled, ids, strict=True)
    ]

  return {
    'promoted': described(np.argsort(-logits, kind='stable')[:k]),
    'suppressed': described(np.argsort(logits, kind='stable')[:k]),
    'final_norm_gain': final_norm_gain,
  }


def read_examples(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  latents: Sequence[LatentId],
  saes: Sequence[JumpReLUSAE],
  rows: HarvestRows,
) -> list[dict]:
  """Returns what latents do at every token of example texts, BOS left out.

  Args:
    model, tokenizer: The model.
    latents: Some.
    saes: Those that have them.
    rows: The texts.

  Returns:
    For each row a dict: 'id', 'text', 'tokens' (what each spells), and
    'activations', latent -> as many numbers.
  """
  values = latent_activations(
    model,
    [(sae_of(id, saes), id.latent) for id in latents],
    rows,
    description='Reading examples',
  )
  return [
    {
      'id': name,
      'text': text,
      'tokens': tokenizer.token_strings(tokens[1:]),
      'activations': {
        str(id): found[1:].tolist()
        for id, found in zip(latents, here, strict=True)
      },
    }
    for name, text, tokens, here in zip(
      rows.ids, rows.texts, rows.tokens, values, strict=True
    )
  ]
