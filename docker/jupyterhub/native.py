"""Accounts with a password of one's own, which an instructor admits: a part of a JupyterHub's configuration.

jupyterhub_config.py loads it; on Kubernetes it is mounted among the chart's configuration (../kubernetes/values.yaml).
FTLAB_HUB_ADMIN_PASSWORD_FILE names the file with the password that an instructor signs up with.
"""

import hmac
import os
import pathlib
import sys

from nativeauthenticator import NativeAuthenticator

c = get_config()  # noqa: F821 (traitlets puts it here)


def first_password():
    """The instructors' first password; None where no file is named. Ends the hub where it cannot be read."""
    path = os.environ.get("FTLAB_HUB_ADMIN_PASSWORD_FILE", "").strip()
    if not path:
        return None
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        sys.exit(f"ftlab hub: FTLAB_HUB_ADMIN_PASSWORD_FILE={path}: {error.strerror}")
    return text or sys.exit(f"ftlab hub: FTLAB_HUB_ADMIN_PASSWORD_FILE={path} is empty: put a long password into it")


class CourseAuthenticator(NativeAuthenticator):
    """NativeAuthenticator lets in whoever is first to sign up under an instructor's name; here one must know the password."""

    secret = first_password()

    def create_user(self, username, password, **more):
        """The new account's record, or None where there is to be none."""
        if self.normalize_username(username) in self.admin_users:
            if self.secret is None or not hmac.compare_digest(password.encode(), self.secret.encode()):
                return None
        return super().create_user(username, password, **more)


c.JupyterHub.authenticator_class = CourseAuthenticator
c.Authenticator.allow_all = True  # of those who were admitted: NativeAuthenticator asks for that first
c.NativeAuthenticator.minimum_password_length = 10
c.NativeAuthenticator.check_common_password = True
c.NativeAuthenticator.allowed_failed_logins = 5
c.NativeAuthenticator.seconds_before_next_try = 300
