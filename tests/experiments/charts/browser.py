"""A headless Chromium that tests read pages with.

It is driven by the DevTools protocol over two pipes: real clicks, real keys,
and every console message, exception and request of a page.
"""

from collections.abc import Callable
import fcntl
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

import pytest

_FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--hide-scrollbars',
  '--window-size=1280,900',
  '--remote-debugging-pipe',
)
# Chromium reads commands from descriptor 3 and answers on descriptor 4.
_LAUNCH = (
  'import os, sys; os.dup2(int(sys.argv[1]), 3); '
  'os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])'
)
_TIMEOUT = 60  # seconds
_DOUBLE_CLICK = 0.35  # seconds within which plotly takes two clicks for one


class Browser:
  """A running Chromium with one page."""

  def __init__(self, folder: pathlib.Path):
    program = shutil.which('chromium')
    if program is None:
      pytest.skip('There is no `chromium` to open pages with.')
    commands, self._commands = os.pipe()
    self._answers, answers = os.pipe()
    # Away from 3 and 4, one of which may be the other's.
    theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (commands, answers)]
    with open(folder / 'chromium.log', 'wb') as log:
      self._process = subprocess.Popen(
        [sys.executable, '-c', _LAUNCH, *map(str, theirs), program]
        + [*_FLAGS, f'--user-data-dir={folder}/profile', 'about:blank'],
        pass_fds=theirs,
        stdout=log,
        stderr=log,
      )
    for fd in (commands, answers, *theirs):
      os.close(fd)
    self._numbers = itertools.count(1)
    self._unread, self._session = b'', None
    self.events = []
    target = next(
      found for found in self._wait(self._pages) if found['type'] == 'page'
    )
    self._session = self.call(
      'Target.attachToTarget', targetId=target['targetId'], flatten=True
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')

  def close(self):
    """Ends Chromium."""
    self._session = None
    self.call('Browser.close')
    self._process.wait(_TIMEOUT)
    os.close(self._commands)
    os.close(self._answers)

  def call(self, method: str, **params) -> dict:
    """A command of the DevTools protocol, and its result."""
    number = next(self._numbers)
    message = {'id': number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._commands, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._read()
      if answer.get('id') == number:
        assert 'error' not in answer, (method, answer)
        return answer['result']
      self.events.append(answer)

  def open(self, path: pathlib.Path, hash: str = ''):
    """Opens a file, and forgets what was said before."""
    self.call('Page.navigate', url='about:blank')
    self.events.clear()
    self.call('Page.navigate', url=path.resolve().as_uri() + hash)
    self.until('document.readyState === "complete"')

  def run(self, script: str):
    """The value of an expression on the page."""
    found = self.call(
      'Runtime.evaluate',
      expression=script,
      returnByValue=True,
      awaitPromise=True,
    )
    assert 'exceptionDetails' not in found, (script, found)
    return found['result'].get('value')

  def until(self, script: str):
    """Waits for an expression to be true."""
    self._wait(lambda: self.run(f'Boolean({script})'), script)

  def click(self, x: float, y: float):
    """A single click of the mouse at a point of the window."""
    time.sleep(_DOUBLE_CLICK)  # since the last one
    at = {'x': x, 'y': y, 'button': 'left', 'clickCount': 1}
    self.move(x, y)
    for kind in ('mousePressed', 'mouseReleased'):
      self.call('Input.dispatchMouseEvent', type=kind, **at)

  def move(self, x: float, y: float):
    """Moves the mouse to a point of the window."""
    self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

  def type(self, text: str):
    """Types into what has the focus."""
    self.call('Input.insertText', text=text)

  def troubles(self) -> list:
    """What the page complained of since it was opened."""
    self.run('0')  # whatever was on its way is here now
    kinds = ('Runtime.exceptionThrown', 'Runtime.consoleAPICalled')
    return [
      event['params']
      for event in self.events
      if event.get('method') in (*kinds, 'Log.entryAdded')
    ]

  def requests(self) -> list[str]:
    """What the page asked for since it was opened."""
    self.run('0')
    return [
      event['params']['request']['url']
      for event in self.events
      if event.get('method') == 'Network.requestWillBeSent'
    ]

  def _pages(self) -> list:
    found = self.call('Target.getTargets')['targetInfos']
    return [each for each in found if each['type'] == 'page']

  def _wait(self, ask: Callable, what: object = 'a page'):
    end = time.monotonic() + _TIMEOUT
    while time.monotonic() < end:
      found = ask()
      if found:
        return found
      time.sleep(0.02)
    raise TimeoutError(f'Not within {_TIMEOUT} s: {what}')

  def _read(self) -> dict:
    """The next message."""
    while b'\0' not in self._unread:
      ready, _, _ = select.select([self._answers], [], [], _TIMEOUT)
      got = os.read(self._answers, 1 << 20) if ready else b''
      if not got:
        raise TimeoutError('Chromium says nothing; see chromium.log.')
      self._unread += got
    message, self._unread = self._unread.split(b'\0', 1)
    return json.loads(message)
