"""`serve_reward`: a reward model over HTTP."""

from collections.abc import Callable

from ppod_data.rewards import check_reward_name, load_reward
from ppod_data.rewards.servers.serve import reward_app
from ppod_data.support.http import base_url, is_loopback, listen, serve
from ppod_data.support.processes import resolve_device


def serve_reward(
    reward: str,
    *,
    host: str,
    port: int,
    max_images: int,
    device: str,
    on_ready: Callable[[str, str, str], None],
) -> None:
    """Serve a reward model until the process is interrupted.

    Args:
        reward: What `load_reward` takes.
        host: Address to serve on.
        port: Port; 0 takes a free one.
        max_images: Most images of a request.
        device: Torch device; `auto` is a GPU if there is one.
        on_ready: Called with the name, the revision and the URL when requests are answered.

    Raises:
        ConfigError: The reward is unknown, or the address is in use.
    """
    check_reward_name(reward)
    with listen(host, port) as listening:
        model = load_reward(reward, resolve_device(device))
        app = reward_app(model, max_images=max_images, only_loopback=is_loopback(host))
        serve(app, listening, lambda bound: on_ready(model.name, model.revision, base_url(host, bound)))
