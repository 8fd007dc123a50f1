"""Map customers every day in Airflow, with a shell command or a Python task.

Copy this file into the DAG folder of Airflow 3. Airflow 2 needs other imports. The
workers need ``pip install 'uid2-async[cli]'``, the variables UID2_BASE_URL,
UID2_API_KEY_FILE and UID2_SECRET_KEY_FILE, and a folder on a local disk that all
attempts of a task share. A retry resumes from it.

``uid2 exit-codes`` explains the exit codes. A retry resumes after 5, 130 and 143.
"""

from __future__ import annotations

import json
import logging
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from uid2_async.cli.exit_codes import ExitCode

FOLDER = "/srv/uid2"
# The output and the delta have the day of the run in their names, and not the time of
# the try: a retry resumes only if the command is the same.
COMMAND = (
    f"uid2 map {FOLDER}/customers.csv {FOLDER}/mapped-{{{{ ds }}}}.csv --email mail "
    f"--state {FOLDER}/people.db --delta {FOLDER}/delta-{{{{ ds }}}}.csv"
)
# Code 3 is a success: failed rows are asked about again by the next run. Every other
# code stays what it is.
BASH_LINE = f"{COMMAND} || {{ code=$?; [ $code -eq 3 ] || exit $code; }}"

log = logging.getLogger(__name__)

NO_RETRY = {ExitCode.USAGE, ExitCode.AUTH}


def map_customers(command: str) -> dict[str, Any]:
    """Run *command*, and let Airflow retry only what a retry can fix.

    Returns:
        What was done: counts, and neither identities nor raw UIDs.

    Raises:
        AirflowFailException: If the command must be corrected first.
        AirflowException: If the task may be tried again.
    """
    # Progress lines go to the task's log as they come.
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command.split(), "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        report, _ = process.communicate()
    except BaseException:
        # Airflow ends the task: uid2 stops cleanly, and the next try resumes.
        process.terminate()
        process.wait()
        raise
    done: dict[str, Any] = json.loads(report)
    code = ExitCode(done["exit_code"])
    if code is ExitCode.INCOMPLETE:
        log.warning("%d rows failed", done["failed"])
    elif code in NO_RETRY:
        raise AirflowFailException(f"{code.meaning} {done['error']['message']}")
    elif code is not ExitCode.OK:
        raise AirflowException(f"{code.meaning} {done['error']['message']}")
    return {name: done[name] for name in ("rows", "mapped", "failed", "requests")}


SETTINGS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "catchup": False,
    # One process uses a state at a time.
    "max_active_runs": 1,
    "default_args": {"retries": 5, "retry_delay": timedelta(minutes=10)},
}

# Both do the same with the same files: schedule only one of them.
with DAG("uid2_bash", schedule="@daily", **SETTINGS):
    map_by_bash = BashOperator(task_id="map_by_bash", bash_command=BASH_LINE)

with DAG("uid2_python", schedule=None, **SETTINGS):
    map_by_python = PythonOperator(
        task_id="map_by_python",
        python_callable=map_customers,
        op_kwargs={"command": COMMAND},
    )
