"""Jinja templates that strangers wrote, rendered within bounds.

A chat template is a program that comes with a model. Jinja's sandbox keeps it
from files and from the interpreter, but lets it run for ever and fill the
memory. Here all that it does is paid for: turns of loops, calls, filters, and
the sizes of what it makes. The bounds grow with what the template is given, so
that they depend on no clock, and long chats have room.
"""

from collections.abc import (
  Callable,
  ItemsView,
  Iterator,
  KeysView,
  Mapping,
  ValuesView,
)
import datetime
import json
import re
import types
from typing import Any

import jinja2
import jinja2.defaults
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor

# Real templates have at most some 20,000 characters.
_MAX_SOURCE = 1 << 16
# Weight that a value may have, and steps that a chat may take: so many, and so
# many for each unit of weight of what the template is given.
_MAX_WEIGHT = 1 << 20, 16
_MAX_STEPS = 1 << 19, 64
# Characters that are copied or compared in the time of a step.
_PER_STEP = 64
# Steps of a call.
_PER_CALL = 4
_MAX_BITS = 4096
# How deep loops may be nested, which Python limits too.
_MAX_LOOPS = 20
# How deep lists may be nested, and macros that call macros.
_MAX_DEPTH = 50

# Filters without bounds that no chat needs.
_NO_FILTERS = {
  *('batch', 'center', 'pprint', 'random', 'slice', 'striptags'),
  *('urlize', 'wordwrap', 'xmlattr'),
}
# And methods of texts and numbers.
_NO_METHODS = {
  *('center', 'encode', 'expandtabs', 'from_bytes', 'fromhex', 'ljust'),
  *('maketrans', 'rjust', 'to_bytes', 'translate', 'zfill'),
}
_BOXES = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


def compile_template(source: str, origin: str) -> Callable[..., str]:
  """Returns a function that renders a Jinja template as HF does.

  The function takes `messages`, `add_generation_prompt` and the special
  tokens' names (`bos_token`, ...) by keyword, and first, if wanted, a mapping
  of further variables (`tools`, `documents`, `date_string`, ...), of the types
  that JSON has. `tools` and `documents` are None unless given. It raises
  ValueError where the template refuses the chat, with the template's own words,
  where it fails or goes beyond all bounds, and if a variable is given that the
  template never reads.

  Args:
    source: The template. It may call `raise_exception` and `strftime_now`
      (today's date: pass `date_string`, where a template reads it, for prompts
      that do not change from day to day), use the `tojson` filter with HF's
      options, break out of loops and mark answers by `generation`. It may not
      use some filters and methods that have no bounds (`center`, `ljust`).
    origin: The template's file for error messages.

  Raises:
    ValueError: it is not a Jinja template, or uses what is not allowed.
  """
  if len(source) > _MAX_SOURCE:
    raise ValueError(
      f'The chat template of {origin} has {len(source):,} characters, more '
      f'than {_MAX_SOURCE:,}. It is not read.'
    )
  environment = _Environment(
    extensions=['jinja2.ext.loopcontrols', _Generation]
  )
  try:
    tree = environment.parse(source)
    tree = _Paying().visit(tree).set_environment(environment)
    read = jinja2.meta.find_undeclared_variables(tree)
    code = environment.compile(tree)
  except Exception as error:  # whatever Jinja, or Python's parser, comes upon
    raise ValueError(
      f'The chat template of {origin} is not a Jinja template, or uses what '
      f'chats may not: {_said(error)}.'
    ) from error
  read -= {'messages', 'add_generation_prompt', *environment.globals}

  def render(variables=None, /, **given):
    variables = dict(variables or {})
    if unread := sorted(variables.keys() - read):
      raise ValueError(
        f'The chat template of {origin} does not take the variables {unread}; '
        f'it takes {sorted(read)}.'
      )
    known = {'tools': None, 'documents': None, **given, **variables}
    known = {name: _plain(value, name) for name, value in known.items()}
    try:
      environment = _Environment(known)
      template = jinja2.Template.from_code(
        environment, code, environment.make_globals(None)
      )
      return environment.concat(
        template.root_render_func(template.new_context(known))
      )
    except Exception as error:  # a template may fail in any way
      raise ValueError(
        f'The chat template of {origin} refuses this chat: {_said(error)}.'
      ) from error

  return render


class _Generation(jinja2.ext.Extension):
  """Lets a template mark answers by {% generation %}, which writes nothing."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return jinja2.nodes.Scope(body).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
  """Jinja's, with no names that begin with an underscore, as HF has it."""

  def __init__(*args, **kwargs):  # so that there may be one named `self`
    self, *args = args
    attributes = dict(*args, **kwargs)
    for name in attributes:
      _refuse_private(name)
    jinja2.utils.Namespace.__init__(self, attributes)

  def __setitem__(self, name, value):
    _refuse_private(name)
    super().__setitem__(name, value)

  def __repr__(self):
    return '<Namespace>'


def _refuse_private(name):
  if str(name).startswith('_'):
    raise jinja2.sandbox.SecurityError(f'a namespace may not have {name!r}')


class _Bounds:
  """Holds what a rendering may still do."""

  def __init__(self, given: Mapping[str, Any]):
    self._known = {}  # weights of what is given, which is not weighed again
    weight = 0
    for value in given.values():
      items = value if isinstance(value, list) else [value]
      for item in items:
        self._known[id(item)] = one = self._weigh(item, float('inf'))
        weight += one
    self.max_weight = _MAX_WEIGHT[0] + _MAX_WEIGHT[1] * weight
    self._steps = _MAX_STEPS[0] + _MAX_STEPS[1] * weight

  def step(self, steps: int = 1):
    """Pays for work."""
    self._steps -= steps
    if self._steps < 0:
      raise jinja2.TemplateRuntimeError(
        'it takes too many steps; it may run for ever'
      )

  def check(self, weight: int):
    """Raises unless a value may have this weight."""
    if weight > self.max_weight:
      raise jinja2.TemplateRuntimeError(
        f'it makes a value of {weight:,} characters or more, of which '
        f'{self.max_weight:,} are allowed for this chat'
      )

  def paid(self, value):
    """Returns a value, whose weight is checked and paid for."""
    if isinstance(value, str):
      weight = len(value)
      self.check(weight)
    else:
      weight = self.measured(value)
    self.step(1 + weight // _PER_STEP)
    return value

  def measured(self, value) -> int:
    """Returns a value's weight, which is checked."""
    return self._weigh(value, self.max_weight)

  def counted(self, values) -> Iterator:
    """Yields values, each of which is paid for."""
    for value in values:
      self.step()
      yield value

  def _weigh(self, value, limit) -> int:
    """Characters in a value; 8 for every number, list and the like."""
    weight, level = 0, [value]
    for _ in range(_MAX_DEPTH):
      below = []
      for one in level:
        weight += 8
        if isinstance(one, str):
          weight += len(one)
        elif isinstance(one, int):
          if one.bit_length() > _MAX_BITS:
            raise jinja2.TemplateRuntimeError(
              f'a number has more than {_MAX_BITS:,} bits'
            )
        elif id(one) in self._known:
          weight += self._known[id(one)]
        elif isinstance(one, Mapping):
          weight += 8 * len(one)
          below += [*one.keys(), *one.values()]
        elif isinstance(one, _BOXES):
          weight += 8 * len(one)
          below += one
        if weight > limit:
          self.check(weight)
      if not below:
        return weight
      level = below
    raise jinja2.TemplateRuntimeError(
      f'values are nested deeper than {_MAX_DEPTH} levels'
    )


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
  """Jinja's sandbox, for one rendering, in which everything is paid for."""

  intercepted_binops = frozenset(('+', '-', '*', '/', '//', '**', '%'))

  def __init__(self, given: Mapping[str, Any] | None = None, **options):
    # Nothing is computed while a template is compiled.
    super().__init__(
      trim_blocks=True, lstrip_blocks=True, optimized=False, **options
    )
    self.bounds = _Bounds(given or {})
    self._depth = 0
    self.filters = dict(_FILTERS)
    del self.globals['lipsum']
    self.globals |= {
      'raise_exception': _refuse,
      'strftime_now': _strftime_now,
      'dict': lambda *args, **kwargs: dict(*args, **kwargs),
      'namespace': _Namespace,
    }

  def concat(self, parts) -> str:
    """Joins what a template, or a part of it, writes."""
    texts, weight = [], 0
    for part in parts:
      texts.append(part)
      weight += len(part)
      self.bounds.check(weight)
    self.bounds.step(1 + weight // _PER_STEP)
    return ''.join(texts)

  def call(self, context, function, /, *args, **kwargs):
    bounds = self.bounds
    bounds.step(_PER_CALL)
    bounds.paid([*args, *kwargs.values()])
    if isinstance(function, jinja2.runtime.LoopContext) and args:
      args = bounds.counted(args[0]), *args[1:]
    elif isinstance(function, types.BuiltinMethodType):
      whole = function.__self__
      if isinstance(whole, str):
        bounds.step(len(whole) // _PER_STEP)
        if function.__name__ == 'replace':
          _check_replace(bounds, whole, *args)
        elif function.__name__ == 'join' and args:
          args = (_check_join(bounds, args[0], whole),)
    if self._depth == _MAX_DEPTH:
      raise jinja2.TemplateRuntimeError(
        f'calls are nested deeper than {_MAX_DEPTH} levels'
      )
    self._depth += 1
    try:
      return bounds.paid(super().call(context, function, *args, **kwargs))
    finally:
      self._depth -= 1

  def call_binop(self, context, operator, left, right):
    bounds = self.bounds
    bounds.step()
    if operator == '*':
      for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple) and isinstance(other, int):
          bounds.check(len(one) * other)
    elif operator == '**' and isinstance(left, int) and isinstance(right, int):
      if left.bit_length() > 1 and left.bit_length() * right > _MAX_BITS:
        raise jinja2.TemplateRuntimeError(
          f'{left} ** {right} has more than {_MAX_BITS:,} bits'
        )
    elif operator == '%' and isinstance(left, str):
      _check_percent(bounds, left, right)
    return bounds.paid(super().call_binop(context, operator, left, right))

  def is_safe_attribute(self, obj, attr, value):
    if isinstance(obj, str | int | float) and attr in _NO_METHODS:
      return False
    return super().is_safe_attribute(obj, attr, value)

  def wrap_str_format(self, value):
    wrapped = super().wrap_str_format(value)
    if wrapped is None:
      return None

    def call(*args, **kwargs):
      text = value.__self__
      if re.search(r'\{[^{}]*:[^{}]*(\d{4}|\{)', text):
        raise jinja2.TemplateRuntimeError(f'{_short(text)!r} asks for too much')
      largest = self.bounds.measured([*args, *kwargs.values()])
      self.bounds.check(len(text) + text.count('{') * largest)
      return wrapped(*args, **kwargs)

    return call


class _Paying(jinja2.visitor.NodeTransformer):
  """Has a template pay where Jinja's sandbox does not ask."""

  def visit_Concat(self, node):
    node = self.generic_visit(node)
    parts = jinja2.nodes.List(node.nodes, lineno=node.lineno)
    return _filtered(parts, 'join')

  def __init__(self):
    self._loops = 0

  def visit_For(self, node):
    self._loops += 1
    if self._loops > _MAX_LOOPS:
      raise jinja2.TemplateSyntaxError(
        f'more than {_MAX_LOOPS} loops are nested', node.lineno
      )
    node = self.generic_visit(node)
    self._loops -= 1
    node.iter = _filtered(node.iter, '_counted')
    return node

  def visit_List(self, node):
    return _filtered(self.generic_visit(node), '_paid')

  visit_Dict = visit_List

  def visit_Tuple(self, node):
    node = self.generic_visit(node)
    return _filtered(node, '_paid') if node.ctx == 'load' else node

  def visit_Getitem(self, node):
    node = self.generic_visit(node)
    if isinstance(node.arg, jinja2.nodes.Slice):
      return _filtered(node, '_paid')
    return node

  def visit_Compare(self, node):
    node = self.generic_visit(node)
    node.expr = _filtered(node.expr, '_paid')
    return node

  def visit_Operand(self, node):
    node = self.generic_visit(node)
    node.expr = _filtered(node.expr, '_paid')
    return node

  def visit_Test(self, node):
    node = self.generic_visit(node)
    if node.args:
      node.node = _filtered(node.node, '_paid')
      node.args = [_filtered(arg, '_paid') for arg in node.args]
    return node


def _filtered(node, name):
  """Returns a node of the syntax, put through a filter."""
  if isinstance(node, jinja2.nodes.Const):
    return node
  return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _refuse(message):
  raise jinja2.TemplateError(message)


def _strftime_now(form):
  return datetime.datetime.now().strftime(form)


def _to_json(
  value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
):
  """Returns the filter `tojson` with HF's options; nothing is escaped."""
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


# What filters and methods are about to make is checked before they make it.


def _check_replace(bounds, text, old='', new='', *_, **__):
  if isinstance(old, str) and isinstance(new, str):
    text = str(text)
    bounds.check(len(text) + text.count(old) * len(new))


def _check_join(bounds, values, d='', attribute=None):
  """Returns the values, which are looked at if they come one by one."""
  if not isinstance(values, str | list | tuple | Mapping | jinja2.Undefined):
    values = list(values)
  if not isinstance(values, jinja2.Undefined):
    between = bounds.measured(d) * len(values)
    bounds.check(between + (0 if attribute else bounds.measured(values)))
  return values


def _check_indent(bounds, text, width=4, *_, **__):
  size = width if isinstance(width, int) else bounds.measured(width)
  bounds.check((str(text).count('\n') + 1) * size)


def _check_round(bounds, value, precision=0, *_, **__):
  bounds.check(_PER_STEP * precision * precision)


def _check_sum(bounds, values, attribute=None, start=0):
  if not isinstance(start, int | float):  # lists: each sum is a copy
    bounds.step(bounds.measured(start) + _length(values) ** 2)


def _check_percent(bounds, text, *given, **named):
  text = str(text)
  if re.search(r'%[^a-zA-Z%]*(\d{4}|\*)', text):
    raise jinja2.TemplateRuntimeError(f'{_short(text)!r} asks for too much')
  largest = bounds.measured([*given, *named.values()])
  bounds.check(len(text) + text.count('%') * largest)


def _check_json(
  bounds, value, ensure_ascii=False, indent=0, separators=(), *_, **__
):
  largest = indent if isinstance(indent, int) else bounds.measured(indent)
  largest += bounds.measured(separators)
  bounds.check(bounds.measured(value) * (6 + largest) // 8)


_CHECKS = {
  'replace': _check_replace,
  'indent': _check_indent,
  'round': _check_round,
  'sum': _check_sum,
  'format': _check_percent,
  'tojson': _check_json,
}


def _bounded(name: str, function: Callable) -> Callable:
  """Returns a filter whose work and result are paid for."""
  wanted = getattr(function, 'jinja_pass_arg', None)
  check = _CHECKS.get(name)

  @jinja2.pass_context
  def call(context, value, *args, **options):
    bounds = context.environment.bounds
    factor = 1 + sum(map(_length, (*args, *options.values())))
    bounds.step(1 + _length(value) * factor // _PER_STEP)
    if name == 'join':
      value = _check_join(bounds, value, *args, **options)
    elif check:
      check(bounds, value, *args, **options)
    first = {
      'context': [context],
      'eval_context': [context.eval_ctx],
      'environment': [context.environment],
    }.get(wanted and wanted.name, [])
    return bounds.paid(function(*first, value, *args, **options))

  return call


def _length(value) -> int:
  """Returns how many characters a text has; items count as a step does."""
  if isinstance(value, str):
    return len(value)
  if isinstance(value, list | tuple | Mapping | range):
    return _PER_STEP * len(value)
  return 1


_FILTERS = {
  name: _bounded(name, function)
  for name, function in (
    jinja2.defaults.DEFAULT_FILTERS | {'tojson': _to_json}
  ).items()
  if name not in _NO_FILTERS
} | {
  '_paid': jinja2.pass_context(
    lambda context, value: context.environment.bounds.paid(value)
  ),
  '_counted': jinja2.pass_context(
    lambda context, values: context.environment.bounds.counted(values)
  ),
}


def _plain(value, name: str, depth: int = 0):
  """Returns a copy of the types of JSON: what else is given has methods that do
  things.

  Raises:
    ValueError: there is something else, or it is nested too deep.
  """
  if value is None or type(value) in (str, bool, int, float):
    return value
  if depth < _MAX_DEPTH:
    if isinstance(value, str):
      return str.__str__(value)
    if isinstance(value, Mapping):
      return {
        _plain(key, name, depth + 1): _plain(one, name, depth + 1)
        for key, one in value.items()
      }
    if isinstance(value, list | tuple):
      return type(value)(_plain(one, name, depth + 1) for one in value)
    problem = f'a {type(value).__name__}'
  else:
    problem = f'values nested deeper than {_MAX_DEPTH} levels'
  raise ValueError(
    f'{name!r} of a chat holds {problem}; expected what JSON can hold: texts, '
    'numbers, lists and dictionaries. Convert it first.'
  )


def _said(error: Exception) -> str:
  """Returns what an error says, shortened."""
  if not isinstance(error, jinja2.TemplateError):
    said = f'{type(error).__name__}: {error}'
  elif isinstance(error, jinja2.TemplateSyntaxError):
    said = f'{error.message} (line {error.lineno})'
  else:
    said = str(error.message or 'it does not say why')
  return _short(said.rstrip('.'))


def _short(text: str) -> str:
  return text if len(text) <= 300 else f'{text[:300]}...'
