"""Imports point down only; a study knows others by their faces alone."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
# What all studies stand on, each on those before it.
GROUND = (
  'runs',
  'stats',
  'charts',
  'entities',
  'miniworld',
  'activations',
  'latents',
  'inputs',
)
# Package -> those that it may know.
FLOORS = {
  'gemma_jax': {'gemma_jax'},
  'sae': {'sae'},
  'experiments': {'gemma_jax', 'sae', 'experiments'},
  'tools': {'gemma_jax', 'sae', 'experiments', 'tools'},
}


def name_of(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {
  name_of(path): path
  for package in FLOORS
  for path in sorted((ROOT / package).rglob('*.py'))
}


def imported(module: str) -> set[str]:
  """Modules of this project that a module imports, anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(MODULES[module].read_text('utf-8'))):
    if isinstance(node, ast.Import):
      names = [each.name for each in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{module} imports relatively'
      inside = [f'{node.module}.{each.name}' for each in node.names]
      names = [name if name in MODULES else node.module for name in inside]
    else:
      continue
    found |= {name for name in names if name.split('.')[0] in FLOORS}
  return found


IMPORTS = {module: imported(module) for module in MODULES}


def package(module: str) -> str:
  """What a module belongs to: 'sae', 'experiments.steering'."""
  parts = module.split('.')
  return '.'.join(parts[:2]) if parts[0] == 'experiments' else parts[0]


def circle(graph: dict[str, set[str]]) -> list[str]:
  """Nodes that reach each other in turn; [] if there are none."""
  done, path = set(), []

  def visit(node):
    if node in path:
      return [*path[path.index(node) :], node]
    if node in done:
      return []
    path.append(node)
    for each in sorted(graph.get(node, ())):
      if found := visit(each):
        return found
    done.add(path.pop())
    return []

  for node in sorted(graph):
    if found := visit(node):
      return found
  return []


def test_a_circle_is_found():
  assert circle({'a': {'b'}, 'b': {'c'}, 'c': {'b'}}) == ['b', 'c', 'b']
  assert not circle({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()})


def test_every_module_is_there():
  assert len(MODULES) > 300
  for module, names in IMPORTS.items():
    for name in names:
      assert name in MODULES, f'{module} imports {name}'


def test_packages_know_those_below():
  for module, names in IMPORTS.items():
    floor = module.split('.')[0]
    for name in names:
      assert name.split('.')[0] in FLOORS[floor], f'{module} imports {name}'


def test_the_ground_of_studies_knows_no_study():
  order = {f'experiments.{name}': i for i, name in enumerate(GROUND)}
  for module, names in IMPORTS.items():
    mine = order.get(package(module))
    for name in names if mine is not None else ():
      if name.startswith('experiments.'):
        its = order.get(package(name), len(order))
        assert its <= mine, f'{module} imports {name}, which is above it'


def test_a_study_knows_another_by_its_face():
  ground = {f'experiments.{name}' for name in GROUND}
  for module, names in IMPORTS.items():
    if not module.startswith('experiments.'):
      continue
    for name in names:
      if name.startswith('experiments.') and package(name) not in ground:
        face = package(name) == package(module) or name == package(name)
        assert face, f'{module} imports {name}: take it from {package(name)}'


def test_there_is_no_circle():
  graph = {}
  for module, names in IMPORTS.items():
    graph.setdefault(package(module), set()).update(map(package, names))
  for name, known in graph.items():
    known.discard(name)
  assert not circle(graph)
  assert not circle(
    {module: names - {package(module)} for module, names in IMPORTS.items()}
  )


def test_files_that_docstrings_name_exist():
  for module, path in MODULES.items():
    text = ast.get_docstring(ast.parse(path.read_text('utf-8'))) or ''
    for name in re.findall(r'`([\w/]+\.py)`', text):
      places = (path.parent, ROOT, ROOT / module.split('.')[0])
      assert any((place / name).is_file() for place in places), (path, name)
