"""Upload of a policy to the Hugging Face Hub."""

from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_data.publish.hub import hub_errors
from ppod_data.storage.real_folders import linked, links_below


def check_repo_id(name: str | None) -> None:
    """Raise ConfigError if `name` is no valid repository id, OWNER/NAME; None is not checked."""
    if name is None:
        return
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{name} cannot be a repository: {error}") from error
    if name.count("/") != 1:
        raise ConfigError(f"{name} cannot be a repository: give OWNER/NAME")


def push_policy(folder: Path, repository: str) -> str:
    """Upload a policy's folder to a model repository and return its address.

    A repository that does not exist is created as a private one.

    Raises:
        ConfigError: a link in the folder, because its target may be private.
        HubError: the Hub cannot be reached or rejects the upload; the local policy is unchanged.
    """
    from huggingface_hub import HfApi

    for path in links_below(folder):
        raise linked(path)
    api = HfApi()
    with hub_errors(f"the policy in {folder} is trained, but was not uploaded to {repository}"):
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Policy trained by ppod")
    return str(address)
