from sciflow import hookimpl


@hookimpl
def sciflow_flows():
    return ["/nowhere/flows.py"]
