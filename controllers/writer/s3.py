"""Files to S3, any endpoint: each once, never over another one; and back again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from freerun.errors import ConfigError, EnvironmentProblem, FreerunError

LIMIT = 5_000_000_000  # bytes that one put_object takes


class Away(FreerunError):
    """The store does not answer now; try again later."""


class Taken(FreerunError):
    """The key holds another file."""


@dataclass(frozen=True)
class Location:
    """`s3://bucket/prefix`; the prefix is "" or ends without a slash."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Location:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise ConfigError(f"{url!r} is not an S3 address: write it like s3://bucket/folder")
        return cls(parts.netloc, parts.path.strip("/"))

    def key(self, *names: str) -> str:
        return "/".join(n for n in (self.prefix, *names) if n)

    def url(self, *names: str) -> str:
        return f"s3://{self.bucket}/{self.key(*names)}"


def make_client(
    endpoint: str | None = None,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    timeout: float = 10.0,
) -> Any:
    """A boto3 client; what is None comes from the usual AWS settings of the environment.

    Checksums only where the protocol needs them: other makers' stores refuse the newer ones.
    """
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            connect_timeout=timeout,
            read_timeout=60.0,
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class Store:
    """One place in S3. Raises `Away` for what may pass, `Taken` for a foreign file."""

    def __init__(self, location: Location, client: Any) -> None:
        self.location = location
        self._client = client

    def put_new(self, path: Path, sha256: str, *names: str) -> None:
        """Upload unless the key exists with the same content already."""
        if path.stat().st_size >= LIMIT:
            raise ConfigError(f"{path} is above 5 GB, which S3 does not take: roll earlier")
        key = self.location.key(*names)
        with path.open("rb") as body:
            code = self._call(
                self._client.put_object, Bucket=self.location.bucket, Key=key, Body=body,
                Metadata={"sha256": sha256}, IfNoneMatch="*",
            )  # fmt: skip
        if code == "PreconditionFailed" and self.sha256(*names) != sha256:
            raise Taken(
                f"{self.location.url(*names)} holds another file: {path} stays where it is; "
                "move the object away, or give the system another s3 address"
            )

    def put(self, data: bytes, *names: str) -> None:
        """Upload a small file that is replaced (README, run.json, manifest)."""
        key = self.location.key(*names)
        self._call(self._client.put_object, Bucket=self.location.bucket, Key=key, Body=data)

    def sha256(self, *names: str) -> str | None:
        """What the object says of itself; None if it does not, or there is none."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            head = self._client.head_object(
                Bucket=self.location.bucket, Key=self.location.key(*names)
            )
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise self._away(error) from error
        except BotoCoreError as error:
            raise self._away(error) from error
        found: str | None = head.get("Metadata", {}).get("sha256")
        return found

    def _call(self, function: Callable[..., Any], **arguments: Any) -> str | None:
        """None if done, "PreconditionFailed" if the key exists; everything else is `Away`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            function(**arguments)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                return "PreconditionFailed"
            raise self._away(error) from error
        except BotoCoreError as error:
            raise self._away(error) from error
        return None

    def _away(self, error: Exception) -> Away:
        place = self.location.url()
        return Away(f"S3 at {place} does not take files now ({error}): they stay local, I try on")


def fetch(url: str, folder: Path, client: Any = None) -> list[Path]:
    """Copy the files of a run, `s3://bucket/system/Run000042`, to `folder`; not its raw words.

    Raises `EnvironmentProblem` if the store does not answer or there is no such run.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    place = Location.parse(url)
    client = client or make_client()
    start = place.prefix + "/"
    out = []
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=start)
        for item in (item for page in pages for item in page.get("Contents", [])):
            name = item["Key"].removeprefix(start)
            if "/" not in name:
                client.download_file(place.bucket, item["Key"], str(folder / name))
                out.append(folder / name)
    except (BotoCoreError, ClientError) as error:
        raise EnvironmentProblem(f"{url} cannot be read: {error}") from error
    if not out:
        raise EnvironmentProblem(f"there is nothing in {url}: is the run's number right?")
    return out
