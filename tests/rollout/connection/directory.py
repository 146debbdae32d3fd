"""A host that is a directory is reached as this one is, until there is a file `gone` in it."""

DOCUMENTATION = """
name: directory
short_description: a host that is a directory
description: Runs on this host, unless the directory has a file of the name gone.
author: the log-capturer developers
extends_documentation_fragment: [connection_pipelining]
options:
  directory:
    description: The directory.
    vars:
      - name: directory
"""

import os

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local


class Connection(Local):
    transport = "directory"

    def _reach(self):
        gone = os.path.join(self.get_option("directory"), "gone")
        if os.path.exists(gone):
            raise AnsibleConnectionFailure(f"{gone} is there")

    def exec_command(self, *args, **kwargs):
        self._reach()
        return super().exec_command(*args, **kwargs)

    def put_file(self, *args, **kwargs):
        self._reach()
        return super().put_file(*args, **kwargs)

    def fetch_file(self, *args, **kwargs):
        self._reach()
        return super().fetch_file(*args, **kwargs)
