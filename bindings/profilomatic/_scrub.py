"""Which keys are secret: the twin of middleware/scrub.c, and the words that both begin with.

A key is compared as people read it: ASCII letters in lower case, every other character of ASCII but digits a blank, and a blank
before and behind it. A word is secret wherever it stands in that, so "auth " finds basic-auth and not author, and
"password" finds user[password2].
"""

DEFAULT = ("password", "passwd", "pwd", "passphrase", "secret", "token", "key ", "auth ", "authoriz", "credential", "session",
           "cookie", "credit", "csrf")
MASK = "[scrubbed]"
KEY_MAX = 125  # bytes; behind the cut of a longer key a word may stand, so it is secret whatever it says
VERDICTS_MAX = 1000

_PLAIN = {code: " " if not chr(code).isalnum() else chr(code).lower() for code in range(128)}


def plain(text):
    """The form in which words and keys are compared."""
    return text.translate(_PLAIN)


class Scrub:
    """The words in force; None masks nothing."""

    def __init__(self, words=None):
        self._words = words
        self._verdicts = {}

    def is_secret(self, key):
        """A key's verdict; those of a program's own keys, which are few, are remembered."""
        if self._words is None:
            return False
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = len(key.encode("utf-8", "replace")) > KEY_MAX or self._finds(key)
            if len(self._verdicts) < VERDICTS_MAX:
                self._verdicts[key] = verdict
        return verdict

    def _finds(self, key):
        key = " %s " % plain(key)
        return any(word in key for word in self._words)

    def query(self, query):
        """A query string in which the values of secret keys are masked."""
        if self._words is None or not query:
            return query
        import re
        from urllib.parse import unquote_plus

        parts = re.split("([&;])", query)
        for index in range(0, len(parts), 2):
            key, equals, _ = parts[index].partition("=")
            name = unquote_plus(key)
            if equals and (len(name.encode("utf-8", "replace")) > KEY_MAX or self._finds(name)):
                parts[index] = key + "=" + MASK
        return "".join(parts)
