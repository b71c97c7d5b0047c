"""URIs that hold credentials are distinguished from those that do not."""

import pytest

from eet.storage import secret_in

WITH = {
    "s3://AKID:Pa55word@bucket/photos": "AWS_PROFILE",
    "s3://AKID:Pa55/word@bucket/photos": "AWS_PROFILE",
    "s3://AKID:55/word@bucket/photos": "AWS_PROFILE",
    "s3://AKID:Pa55?word@bucket": "AWS_PROFILE",
    "s3://AKID:Pa55word": "AWS_PROFILE",
    "s3://AKID@bucket": "AWS_PROFILE",
    "s3://bucket/photos?access_key=AKID&secret_key=Pa55word": "AWS_PROFILE",
    "s3://bucket/photos?region=x&Secret%5FKey=Pa55word": "AWS_PROFILE",
    "s3://bucket?endpoint_override=http%3A%2F%2Fme%3APa55word%40host": "AWS_PROFILE",
    "s3://bucket?endpoint_override=me:Pa55word@host:9000": "AWS_PROFILE",
    "gs://me:Pa55word@bucket/photos": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs://:Pa55word@account/photos": "AZURE_CLIENT_SECRET",
    "http://me:Pa55word@host:5000": "MLFLOW_TRACKING_PASSWORD",
    "http://me:#Pa55word@host:5000": "MLFLOW_TRACKING_PASSWORD",
    "https://Pa55word@host/x.jpg": ".netrc",
    "https://host/x.jpg?X-Amz-Credential=AKID&X-Amz-Signature=Pa55word": "environment variables|.netrc",
    "https://host/x.jpg?se=2030&sig=Pa55word": ".netrc",
    "postgresql+psycopg2://me:Pa55word@host:5432/db": "PGPASSWORD",
    "mysql+pymysql://me:Pa55word@host/db": "environment variables",
    "simplecache::s3://AKID:Pa55word@bucket": "AWS_PROFILE",
    "SFTP://me:Pa55word@host/x": "environment variables",
}
WITHOUT = [
    "", "photos/a:b@c.jpg", "s3://bucket/a:b@c.jpg", "s3://bucket/photos?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
    "s3://bucket?endpoint_override=http%3A%2F%2Fhost%3A9000", "gs://anonymous@bucket/x", "abfs://container@account.dfs.core.windows.net/x",
    "hdfs://me@host:9000/x", "http://localhost:5000", "http://host:8080/bird@2x.png", "http://[::1]:5000", "https://host/x.jpg?width=100",
    "sqlite:////runs/mlflow.db", "file:///photos/a?token=b", "file:///C:/photos", "memory://a/b", "databricks://profile", "127.0.0.1:6379",
]  # fmt: skip


@pytest.mark.parametrize("uri", WITH)
def test_credentials_are_found_and_not_repeated(uri):
    found = secret_in(uri)
    assert found is not None and "credentials" in found and any(how in found for how in WITH[uri].split("|"))
    assert not any(part in found for part in ("Pa55", "word@", "AKID", "55/"))


@pytest.mark.parametrize("uri", WITHOUT)
def test_other_locations_are_left_alone(uri):
    assert secret_in(uri) is None
