"""Rotation of a file that several processes may be writing: the twin of destinations/rotate.c and append_file.c, where the reasons are.

PATH becomes PATH.1, PATH.1 becomes PATH.2, and so on. Whoever rotates locks the file at PATH and looks whether it still is the
one he found full, so that it is moved once.
"""

import errno
import fcntl
import os
import stat
import time

_RETRY_SECONDS = 60.0


class Rotation:
    """`fd` is the file to write to; `turn()` exchanges it when it is due."""

    def __init__(self, path, flags, size, seconds, keep):
        self._path = os.path.realpath(path)  # of a link the target is rotated
        self._size, self._seconds, self._keep = size, seconds, keep
        self._mode = 0o666
        self._not_before = 0.0
        self.failures, self.problem = 0, None  # the last one in words
        self.fd = -1
        self._open(flags)
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)

    def _open(self, flags=os.O_WRONLY | os.O_CREAT | os.O_APPEND):
        fd = os.open(self._path, flags, self._mode)
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = fd
        self._mode = os.fstat(fd).st_mode & 0o777
        self._opened = time.monotonic()

    def turn(self, size):
        """The descriptor for the next write, of `size` bytes. What goes wrong leaves the present one, for a minute."""
        now = time.monotonic()
        if now >= self._not_before:
            try:
                self._follow_path()
                if self._is_full(size, now):
                    self._rotate()
                    self._follow_path()
            except OSError as error:
                self._not_before = now + _RETRY_SECONDS
                self.failures += 1
                self.problem = "cannot rotate '%s': %s (%d times so far)" % (self._path, error.strerror, self.failures)
        return self.fd

    def _is_there(self):
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self.fd))
        except FileNotFoundError:
            return False

    def _follow_path(self):
        if not self._is_there():
            self._open()

    def _is_full(self, size, now):
        there = os.fstat(self.fd).st_size
        return there > 0 and ((self._size and there + size > self._size) or
                              (self._seconds and now - self._opened >= self._seconds))

    def _rotate(self):
        lock = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                if os.path.samestat(os.fstat(lock), os.fstat(self.fd)) and self._is_there():
                    self._shift()
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
        except BlockingIOError:
            pass  # another process is at it
        finally:
            os.close(lock)

    def _shift(self):
        last = 1
        while last < self._keep and os.path.lexists("%s.%d" % (self._path, last)):
            last += 1
        for number in range(last, 0, -1):
            source = self._path if number == 1 else "%s.%d" % (self._path, number - 1)
            os.rename(source, "%s.%d" % (self._path, number))
