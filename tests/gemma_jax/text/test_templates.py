"""Templates of strangers: HF's text, and bounds for those that mean harm."""

import time

import jinja2.sandbox
import pytest

from gemma_jax.text import templates
from gemma_jax.text.chat import parse_messages
from gemma_jax.text.templates import compile_template
from tests.gemma_jax.text import families, tiny_tokenizer

MESSAGES = [
  {'role': 'system', 'content': ' Be brief, é "<\n'},
  {'role': 'user', 'content': 'Who? <think>x</think> y\n'},
  {'role': 'assistant', 'content': 'Me', 'thinking': 'hm', 'name': None},
  {'role': 'user', 'content': ''},
]
TOOLS = [
  {'type': 'function', 'function': {'name': 'größe', 'parameters': {'x': [1]}}}
]
TOKENS = {
  'bos_token': '<s>',
  'eos_token': '</s>',
  'unk_token': '<unk>',
  'pad_token': '<pad>',
}

# What the templates of public models do, in our words.
LIKE = {
  'llama3': """{{- bos_token }}
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if not date_string is defined %}{% set date_string = '1 Jan' %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
  {%- set told = messages[0]['content'] | trim %}
  {%- set messages = messages[1:] %}
{%- else %}{% set told = '' %}{% endif %}
<|head|>{{ told }}{{ 'Today: ' + date_string }}
{%- if tools is not none %}{% for t in tools %}
  {{- t | tojson(indent=4) }}{{ '\\n' }}
{%- endfor %}{% endif %}
{%- for m in messages %}
  {%- if not (m.role == 'ipython' or m.role == 'tool' or 'calls' in m) %}
    {{- '<' + m['role'] + '>\\n' + m['content'] | trim + '<|eot|>' }}
  {%- elif 'calls' in m %}{{ raise_exception('one call only') }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>\\n' }}{% endif %}""",
  'gemma3': """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
  {%- set first = messages[0]['content'] + '\\n' -%}
  {%- set rest = messages[1:] -%}
{%- else -%}{%- set first, rest = '', messages -%}{%- endif -%}
{%- for m in rest -%}
  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('roles do not alternate') }}
  {%- endif -%}
  {%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}
  {{ '<start>' + role + '\\n' + (first if loop.first else '') }}
  {%- if m['content'] is string -%}{{ m['content'] | trim }}
  {%- elif m['content'] is iterable -%}
    {%- for part in m['content'] -%}{{ part['text'] }}{%- endfor -%}
  {%- endif -%}{{ '<end>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start>model\\n' }}{%- endif -%}""",
  'qwen3': """{%- set ns = namespace(found=true, last=messages|length - 1) %}
{%- for m in messages[::-1] %}
  {%- set at = (messages|length - 1) - loop.index0 %}
  {%- if ns.found and m.role == 'user' and not (m.content.startswith('<r>')
      and m.content.endswith('</r>')) %}
    {%- set ns.found = false %}{%- set ns.last = at %}
  {%- endif %}
{%- endfor %}
{%- for m in messages %}
  {%- set said = m.reasoning_content if m.reasoning_content is string else
      m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
  {{- '<|im|>' + m.role + ': ' + loop.index0 ~ '/' ~ ns.last }}
  {%- if loop.last or (not loop.last and said) %}
    {{- '<think>' + said.strip('\\n') + '</think>' }}
  {%- endif %}
  {{- m.content.split('</think>')[-1].lstrip('\\n') }}
{%- endfor %}
{%- if enable_thinking is defined and not enable_thinking %}off{% endif %}""",
  'smollm': """{% for m in messages %}{% if loop.first and
  messages[0]['role'] != 'system' %}{{ 'system: none\\n' }}{% endif %}
{% generation %}{{ m['role'] + '\\n' + m['content'] }}{% endgeneration %}
{{ eos_token }}{% endfor %}
{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}""",
  'functions': """{%- macro show(value, depth=0) %}
  {%- if value is mapping %}{% for k, v in value | dictsort %}
    {{- '  ' * depth }}{{ k }}: {{ show(v, depth + 1) }}
  {%- endfor %}
  {%- elif value is iterable and value is not string %}
    {{- value | map('string') | join(', ') }}
  {%- else %}{{ value }}{% endif %}
{%- endmacro %}
{%- for tool in tools or [] %}{{ show(tool) }}{% endfor %}
{%- for m in messages if m.role != 'system' %}
  {{- '%s (%d)' | format(m.role, loop.length) }}{{ '{}!'.format(m.content) }}
  {%- if loop.changed(m.role) %}new{% endif %}
{%- else %}none{% endfor %}
{%- macro quoted() %}"{{ caller(1) }}"{% endmacro %}
{%- call(x) quoted() %}{{ x }}{% endcall %}""",
  'filters': """{{ messages | selectattr('role', 'equalto', 'user')
  | map(attribute='content') | list | length }}
{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='role')
  | unique | sort(reverse=true) | join('+') }}
{{ (messages | first).content | upper | replace('B', 'b') | indent(2, true) }}
{{ [3, 1, 2] | sum }} {{ [[1], [2]] | sum(start=[]) }} {{ 2.567 | round(1) }}
{{ '7' | int + 1 }} {{ 'a,b'.split(',') | last }} {{ 0 | default('d', true) }}
{{ messages | groupby('role') | map('first') | list }} {{ [1, 2][::-1] }}
{{ dict(a=1) | items | list }}
{{ 'A b' | lower | title | capitalize }} {{ '<&>' | e }} {{ 3 // 2 ** 2 % 5 }}
{{ 'x' in 'xyz' and 1 not in [2] and 1 < 2 <= 2 }} {{ -1 | abs }}
{% for a, b in {'k': 1, 'l': [2]}.items() %}{{ a }}={{ b }}{% endfor %}
{% for a in [[[1], 2], 3] recursive %}{{ loop(a) if a is iterable else a }}
{%- endfor %}
{% filter upper %}quiet{% endfilter %}{% set x %}block {{ 1 }}{% endset %}
{{ x }}
{% with y = 2 %}{{ y }}{% endwith %}{{ cycler('o', 'e').next() }}""",
}


@pytest.mark.parametrize('name', LIKE)
@pytest.mark.parametrize('tools', [None, TOOLS])
@pytest.mark.parametrize('messages', [MESSAGES, MESSAGES[1:], MESSAGES[1:2]])
def test_the_text_is_hfs(name, tools, messages):
  render = compile_template(LIKE[name], 'here')
  hf = families.hf('llama2')
  for prompt in (True, False):
    options = {'add_generation_prompt': prompt, **TOKENS}
    want = hf.apply_chat_template(
      messages, tools, chat_template=LIKE[name], tokenize=False, **options
    )
    given = {'messages': parse_messages(messages), 'tools': tools}
    assert render(**given, **options) == want


@pytest.mark.parametrize(
  'source',
  [
    '{{ tools is not none }} {{ tools is defined }} {{ documents is none }}',
    '{% if tools is not none %}Tools:{% endif %}',
    '{% generation %}a{% endgeneration %}b',
    '{%- generation -%} a {%- endgeneration %} b',
    '{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}'
    '{{ x }}',
    '{% for i in [1, 2, 3] %}{% generation %}{{ i }}{{ loop.last }}'
    '{% endgeneration %}{% if i == 2 %}{% break %}{% endif %}{% endfor %}',
    '{{ additional_special_tokens is defined }} {{ sep_token is defined }}',
    '{% for i in range(5) %}{% if i is odd %}{% continue %}{% endif %}{{ i }}'
    '{% endfor %}',
    '{{ missing }}{{ messages[0].missing }}{{ messages[0]["name"] }}',
    '{% set ns = namespace(a=1) %}{% set ns.b = 2 %}{{ ns.a + ns.b }}',
  ],
)
def test_the_dialect_is_hfs(source):
  want = families.hf('llama2').apply_chat_template(
    MESSAGES, chat_template=source, tokenize=False
  )
  render = compile_template(source, 'here')
  assert render(messages=MESSAGES, add_generation_prompt=False) == want


def test_constants_do_not_change_what_is_computed():
  for source in ("{{ 'a' * 3 ~ 1 }}", "{{ 'a' | upper }}", '{{ 2 ** 3 }}'):
    want = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(source)
    assert compile_template(source, 'here')() == want.render()


BIG = "{% set a = 'a' * 500000 %}"
TWICE = '{% for i in range(99999) %}{% for j in range(99999) %}'
ENDS = '{% endfor %}{% endfor %}'


def grow(start, step):
  """A template that takes 60 steps from a value."""
  return (
    f'{{% set n = namespace(x={start}) %}}{{% for i in range(60) %}}'
    f'{{% set n.x = {step} %}}{{% endfor %}}{{{{ n.x }}}}'
  )


HOSTILE = {
  'loops in loops': TWICE + ENDS,
  'loops that write': TWICE + 'x' * 1000 + ENDS,
  'loops in a macro': '{% macro f() %}'
  + TWICE
  + ENDS
  + '{% endmacro %}{{ f() }}',
  'loops in a block': '{% set x %}' + TWICE + 'text' + ENDS + '{% endset %}',
  'recursive loop': '{% for x in [1] recursive %}'
  '{{ loop(range(99999)) }}{% endfor %}',
  'wide recursive loop': '{% for x in [1] recursive %}{% if loop.depth < 4 %}'
  '{{ loop(range(99999)) }}{% endif %}{% endfor %}',
  'recursion': '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}',
  'two recursions': '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}'
  '{% endif %}{% endmacro %}{{ f(45) }}',
  'block in itself': '{% block a %}{{ self.a() }}{% endblock %}',
  'filters in loops': TWICE
  + "{{ range(99999) | reject('integer') | first }}"
  + ENDS,
  'comparisons': BIG + "{% set b = a ~ '' %}" + TWICE + '{{ a == b }}' + ENDS,
  'searches': BIG + "{% set b = a ~ 'b' %}" + TWICE + '{{ b in a }}' + ENDS,
  'tests': BIG + "{% set b = a ~ '' %}" + TWICE + '{{ a is eq(b) }}' + ENDS,
  'repetition': "{{ 'a' * 10**10 }}",
  'repetition, unseen': "{{ ('a' * 10**10) | length }}",
  'repetition on the left': "{{ 10**10 * 'a' }}",
  'list repetition': '{{ ([1] * 10**10) | length }}',
  'doubling': grow("'a'", 'n.x + n.x'),
  'joining': grow("'a'", 'n.x ~ n.x'),
  'doubling a list': grow('[1]', 'n.x + n.x'),
  'lists in lists': grow('[1]', '[n.x, n.x]'),
  'tuples in tuples': grow('(1,)', '(n.x, n.x)'),
  'dictionaries': grow('{}', "{'a': n.x, 'b': n.x}"),
  'views': grow('{}', 'dict(a=n.x.items(), b=n.x.items())'),
  'cyclers': grow('cycler(1)', 'cycler(n.x.items, n.x.items)'),
  'deep': grow('()', '(n.x,)'),
  'replace': BIG + "{{ a.replace('a', a) }}",
  'replace filter': BIG + "{{ a | replace('a', a) }}",
  'join': BIG + '{{ a.join(a) }}',
  'join filter': BIG + '{{ range(99999) | join(a) }}',
  'join of a generator': BIG + "{{ a.join(range(999) | map('string')) }}",
  'indent': "{{ ('\\n' * 500000) | indent(500000) }}",
  'ljust': "{{ 'a'.ljust(10**10) }}",
  'center': "{{ 'a' | center(10**10) }}",
  'to_bytes': "{{ (1).to_bytes(10**10, 'big') }}",
  'format': "{{ '{:>1000000000}'.format(1) }}",
  'format of a width': "{{ '{:{}}'.format(1, 1000000000) }}",
  'many fields': BIG + "{{ ('{0}' * 100000).format(a) }}",
  'percent': "{{ '%1000000000d' % 1 }}",
  'percent of a width': "{{ '%*d' | format(1000000000, 1) }}",
  'json': '{{ [[1]] | tojson(indent=10**10) }}',
  'lipsum': '{{ lipsum(n=10**9) }}',
  'round': "{{ 1.5 | round(10**9, 'ceil') }}",
  'range': '{{ range(10**9) | list }}',
  'power': '{{ 10 ** (10 ** 10) }}',
  'squares': grow('3', 'n.x * n.x'),
  'many big values': BIG
  + '{% for i in range(99999) %}{{ a | length ~ a ~ i | string }}{% endfor %}',
  'division': '{{ 1 / 0 }}',
  'remainder': '{{ 1 % 0 }}',
  'types': "{{ 1 + 'a' }}",
  'overflow': '{{ 2.0 ** 100000 }}',
  'no such key': '{{ {}[1].x }}',
  'no such item': '{{ messages[7].x.y }}',
  'no such attribute': '{{ messages.x.y }}',
  'no such filter': "{{ messages | map('nothing') | list }}",
  'no such word': "{{ 'abc'.index('z') }}",
  'no length': '{{ 5 | length }}',
  'unpacking': '{% set a, b = [1] %}',
  'not JSON': '{{ nothing | tojson }}',
  'a date that is none': '{{ strftime_now(5) }}',
  'another file': "{% include 'x' %}",
  'deep source': '{{ ' + '(' * 5000 + '1' + ')' * 5000 + ' }}',
  'loops without end': '{% for a in [1] %}' * 200 + '{% endfor %}' * 200,
  'a long number': '{{ ' + '9' * 5000 + ' }}',
  'a long source': 'x' * 100_000,
  'surrogates': '{{ \ud800 }}',
  'private names': '{% set n = namespace() %}{{ n.__init__(_a=1) }}',
  'private attributes': '{{ namespace(_a=1) }}',
}


@pytest.fixture(name='few_steps')
def _few_steps(monkeypatch):
  """Bounds that a test reaches sooner; they are numbers alone."""
  monkeypatch.setattr(templates, '_MAX_STEPS', (1 << 14, 64))


@pytest.mark.parametrize('name', HOSTILE)
def test_harm_is_a_value_error_that_names_the_file(name, few_steps):
  del few_steps
  started = time.monotonic()
  with pytest.raises(ValueError, match='folder/chat_template.jinja') as error:
    compile_template(HOSTILE[name], 'folder/chat_template.jinja')(
      messages=MESSAGES
    )
  assert len(str(error.value)) < 1000
  assert time.monotonic() - started < 20


def test_bounds_are_of_steps_and_not_of_time():
  """Without the smaller bound, loops in loops end too."""
  with pytest.raises(ValueError, match='too many steps; it may run for ever'):
    compile_template(TWICE + ENDS, 'here')(messages=MESSAGES)


def test_a_long_refusal_is_cut():
  with pytest.raises(ValueError, match=r'aaa\.\.\.') as error:
    compile_template("{{ raise_exception('a' * 10000) }}", 'here')()
  assert len(str(error.value)) < 500
  with pytest.raises(ValueError, match='refuses this chat: 5'):
    compile_template('{{ raise_exception(5) }}', 'here')()


GATHERING = (
  "{% set n = namespace(text='', all=[]) %}{% for m in messages %}"
  "{% set n.text = n.text ~ m.role + ': ' + m.content ~ eos_token %}"
  '{% set n.all = n.all + [m] %}{% endfor %}{{ n.text }}{{ n.all | length }}'
)


@pytest.mark.parametrize('source', ['llama3', 'gemma3', 'qwen3', GATHERING])
def test_long_chats_have_room(source):
  source = LIKE.get(source, source)
  turns = 2000 if source != GATHERING else 1000
  messages = [
    {'role': ('user', 'assistant')[i % 2], 'content': f'Turn {i}. ' * (i % 9)}
    for i in range(turns)
  ]
  text = compile_template(source, 'here')(messages=messages, **TOKENS)
  assert text == families.hf('llama2').apply_chat_template(
    messages, chat_template=source, tokenize=False, **TOKENS
  )


@pytest.mark.parametrize(
  'value', [object(), {1, 2}, b'x', [tiny_tokenizer], {'a': print}]
)
def test_only_what_json_holds_is_given_to_a_template(value):
  render = compile_template('{{ tools }}', 'here')
  with pytest.raises(ValueError, match="'tools' of a chat holds a .*Convert"):
    render({'tools': value})


def test_values_nested_without_end_are_refused():
  endless = []
  endless.append(endless)
  with pytest.raises(ValueError, match='nested deeper than'):
    compile_template('{{ tools }}', 'here')({'tools': endless})


def test_what_is_given_stays_as_it_is():
  messages = [{'role': 'user', 'content': 'Hi', 'tags': (1, [2])}]
  text = compile_template('{{ messages }}', 'here')(messages=messages)
  assert text == str(messages)
  for change in ('messages.append(1)', 'messages[0].update({})'):
    with pytest.raises(ValueError, match='unsafe'):
      compile_template('{{ ' + change + ' }}', 'here')(messages=messages)
