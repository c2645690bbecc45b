from prefect import flow
from sciflow import run
from sciflow.stages.design import Design

from acme_good import Decay


@flow
async def acme_campaign(count: int = 4):
    """A campaign of acme's."""
    return (await run(Design(problem=Decay(), count=count))).path
